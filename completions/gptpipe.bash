# bash completion of gptpipe; `gptpipe completions bash` prints it.

_gptpipe() {
    local gptpipe=$1 rest=${COMP_LINE:0:COMP_POINT} word= at
    local -a words=()
    COMPREPLY=()
    # The words as they stand on the line: bash splits them at `=` and `:` too, and names of models have colons.
    for ((at = 0; at <= COMP_CWORD; at++)); do
        if [[ $at == 0 || $rest == [[:space:]]* ]]; then
            words+=("")
            rest=${rest#"${rest%%[![:space:]]*}"}
        fi
        word=${COMP_WORDS[at]}
        ((at == COMP_CWORD)) && word=$rest
        words[${#words[@]} - 1]+=$word
        rest=${rest#"$word"}
    done
    # What readline completes is the last part; what stands before it is not to be typed again.
    local last=$word current=${words[${#words[@]} - 1]}
    [[ $last == [=:] ]] && last=

    local option= ended= prompted= profile= first= operands=0 flags
    for ((at = 1; at < ${#words[@]} - 1; at++)); do
        word=${words[at]}
        if [[ -n $option ]]; then
            [[ $option == -P || $option == --profile ]] && profile=$word
            option=
            continue
        fi
        if [[ -z $ended && $word == -?* ]]; then
            case $word in
            --) ended=1 ;;
            --profile=*) profile=${word#*=} ;;
            --prompt-file=*) prompted=1 ;;
            --prompt-file | --reduce | --system | --profile | --model | --base-url | --api | --param | --max-output-tokens | --chunk-tokens | --by | --context | --flush-after | --jobs | --rate | --token-rate | --retries | --timeout | --on-error | --max-cost | --max-tokens | --backup | --cache-ttl | --cache | --log | --metrics | --format | --schema | --join | --progress | --since | --listen) option=$word ;;
            --*) ;;
            *)
                # Short options in one word: the first that takes a value takes the rest.
                word=${word#-} flags=${word%%[fRsPmcbjr]*}
                if [[ $flags != "$word" ]]; then
                    word=${word#"$flags"}
                    if [[ ${#word} == 1 ]]; then option=-$word; fi
                    if [[ $word == P?* ]]; then profile=${word#P}; fi
                    if [[ $word == f?* ]]; then prompted=1; fi
                fi
                ;;
            esac
            if [[ $option == -f || $option == --prompt-file ]]; then prompted=1; fi
            continue
        fi
        if [[ $operands == 0 && -z $ended ]]; then first=$word; fi
        operands=$((operands + 1))
    done

    local list= files=
    if [[ -z $option && -z $ended && $current == --*=* ]]; then
        option=${current%%=*} current=${current#*=}
    fi
    # The options after a command are its own; with a prompt from a file no word is a command.
    [[ -z $prompted ]] || first=
    if [[ -n $option ]]; then
        case $first/$option in
        setup/-P | setup/--profile) list=$("$gptpipe" completions profiles 2>/dev/null) ;;
        setup/*) ;;
        key/-P | key/--profile) list=$("$gptpipe" completions profiles 2>/dev/null) ;;
        key/*) ;;
        login/-P | login/--profile) list=$("$gptpipe" completions profiles 2>/dev/null) ;;
        login/*) ;;
        cache/--cache) files=1 ;;
        cache/*) ;;
        usage/--by) list=$'model\nday\nprofile\nhost' ;;
        usage/--format) list=$'text\njsonl' ;;
        usage/*) ;;
        metrics/*) ;;
        batch/-P | batch/--profile) list=$("$gptpipe" completions profiles 2>/dev/null) ;;
        batch/*) ;;
        completions/-P | completions/--profile) list=$("$gptpipe" completions profiles 2>/dev/null) ;;
        completions/*) ;;
        */-f | */--prompt-file) files=1 ;;
        */-P | */--profile) list=$("$gptpipe" completions profiles 2>/dev/null) ;;
        */-m | */--model) list=$("$gptpipe" completions models ${profile:+"--profile=$profile"} 2>/dev/null) ;;
        */--api) list=$'chat\nresponses' ;;
        */-b | */--by) list=$'sentence\nparagraph\nline\nfile' ;;
        */-j | */--jobs) list=$'auto' ;;
        */--on-error) list=$'stop\nskip\nkeep' ;;
        */--cache) files=1 ;;
        */--log) files=1 ;;
        */--metrics) files=1 ;;
        */--format) list=$'text\njsonl' ;;
        */--schema) files=1 ;;
        */--join) list=$'source\nline\nblank' ;;
        */--progress) list=$'auto\nalways\nnever' ;;
        esac
    elif [[ -z $ended && $current == -* ]]; then
        case $first in
        setup) list=$'-P\n--profile\n--base-url\n--no-check\n-q\n--quiet\n-v\n--verbose\n-h\n--help\n-V\n--version' ;;
        key) list=$'-P\n--profile\n--base-url\n--no-check\n-q\n--quiet\n-v\n--verbose\n-h\n--help\n-V\n--version' ;;
        login) list=$'-P\n--profile\n--base-url\n--revoke\n-q\n--quiet\n-v\n--verbose\n-h\n--help\n-V\n--version' ;;
        cache) list=$'--cache\n-q\n--quiet\n-v\n--verbose\n-h\n--help\n-V\n--version' ;;
        usage) list=$'--since\n--by\n--format\n--audit\n-h\n--help' ;;
        metrics) list=$'--listen\n-h\n--help' ;;
        batch) list=$'-P\n--profile\n--base-url\n-q\n--quiet\n-v\n--verbose\n-h\n--help\n-V\n--version' ;;
        completions) list=$'-P\n--profile\n-q\n--quiet\n-v\n--verbose\n-h\n--help\n-V\n--version' ;;
        *) list=$'-f\n--prompt-file\n-n\n--null-input\n-R\n--reduce\n-s\n--system\n-P\n--profile\n-m\n--model\n--base-url\n--api\n--param\n--max-output-tokens\n--no-check\n--revoke\n--demo\n-c\n--chunk-tokens\n-b\n--by\n--context\n--flush-after\n-j\n--jobs\n-r\n--rate\n--token-rate\n--retries\n--timeout\n--on-error\n--max-cost\n--max-tokens\n--batch\n-i\n--in-place\n--backup\n--dry-run\n--no-cache\n--refresh\n--cache-only\n--cache-ttl\n--cache\n--log\n--metrics\n--format\n--schema\n--unfence\n--join\n--live\n--whole\n--progress\n-q\n--quiet\n-v\n--verbose\n-h\n--help\n-V\n--version' ;;
        esac
    elif [[ -n $prompted ]]; then
        files=1
    elif [[ $operands == 0 ]]; then
        [[ -n $ended ]] || list=$'setup\nkey\nlogin\ncache\nusage\nmetrics\nbatch\ncompletions'
    else
        case $first/$operands in
        setup/*) ;;
        key/1) list=$'show\nlist\nrotate\nremove' ;;
        key/*) ;;
        login/*) ;;
        cache/1) list=$'stats\nprune\nclear' ;;
        cache/*) ;;
        usage/*) ;;
        metrics/*) ;;
        batch/1) list=$'list\ncancel' ;;
        batch/*) ;;
        completions/1) list=$'bash\nzsh\nfish' ;;
        completions/*) ;;
        *) files=1 ;;
        esac
    fi
    if [[ -n $files ]]; then
        # Left to readline, which knows of quotes and folders; bash 3 cannot be told so here.
        compopt -o default 2>/dev/null || COMPREPLY=($(compgen -f -- "$last"))
        return
    fi
    # Not by compgen, which would take the names for the shell's own words and expand them.
    while IFS= read -r word; do
        if [[ -n $word && $word == "$current"* ]]; then
            COMPREPLY+=("${word#"${current%"$last"}"}")
        fi
    done <<<"$list"
}

complete -F _gptpipe gptpipe
