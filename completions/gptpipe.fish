# fish completion of gptpipe; `gptpipe completions fish` prints it.

# Says whether the cursor stands where a command, a file, a word after a command, or an option of a
# run or of a command may stand.
function __gptpipe_at
    set -l words (commandline -opc)
    set -e words[1]
    set -l operands
    set -l value no
    set -l ended no
    set -l prompted no
    for word in $words
        if test $value = yes
            set value no
        else if test $ended = no; and string match -qr -- '^-.' $word
            switch $word
                case --
                    set ended yes
                case '--prompt-file=*'
                    set prompted yes
                case --prompt-file
                    set value yes
                    set prompted yes
                case --reduce --system --profile --model --base-url --api --param --max-output-tokens --chunk-tokens --by --context --flush-after --jobs --rate --token-rate --retries --timeout --on-error --max-cost --max-tokens --backup --cache-ttl --cache --log --metrics --format --schema --join --progress --since --listen
                    set value yes
                case '--*'
                case '*'
                    # Short options in one word: the first that takes a value takes the rest.
                    set -l short (string match -r -- '^-[^fRsPmcbjr]*([fRsPmcbjr])(.*)$' $word)
                    if set -q short[2]
                        test -n "$short[3]"; or set value yes
                        test $short[2] = f; and set prompted yes
                    end
            end
        else
            set -a operands $word
        end
    end
    set -l count (count $operands)
    set -l command
    if test $prompted = no -a $ended = no -a $count -gt 0; and contains -- $operands[1] setup key login cache usage metrics batch completions
        set command $operands[1]
    end
    switch $argv[1]
        case command
            test $prompted = no -a $ended = no -a $count = 0
        case file
            test $prompted = yes -o $count -gt 0; and not set -q command[1]
        case option
            set -q command[1]; or set command run
            contains -- $command[1] $argv[2..-1]
        case word
            set -q command[1]; and test $command[1] = $argv[2] -a $count = $argv[3]
    end
end

# The models of the profile that the line names.
function __gptpipe_models
    set -l words (commandline -opc)
    set -l profile
    for at in (seq (count $words))
        if contains -- $words[$at] -P --profile
            set profile --profile=$words[(math $at + 1)]
        else if string match -qr -- '^--profile=' $words[$at]
            set profile $words[$at]
        end
    end
    $words[1] completions models $profile 2>/dev/null
end

function __gptpipe_profiles
    set -l words (commandline -opc)
    $words[1] completions profiles 2>/dev/null
end

complete -c gptpipe -f
complete -c gptpipe -n '__gptpipe_at file' -F
complete -c gptpipe -n '__gptpipe_at option run' -s f -l prompt-file -r -F -d 'read the prompt from FILE; then every operand is a file'
complete -c gptpipe -n '__gptpipe_at option run' -s n -l null-input -d 'read no input: send the prompt alone'
complete -c gptpipe -n '__gptpipe_at option run' -s R -l reduce -x -d 'merge the replies by PROMPT, level by level, into one'
complete -c gptpipe -n '__gptpipe_at option run' -s s -l system -x -d 'replace the framing of the system message; \'\' for none'
complete -c gptpipe -n '__gptpipe_at option run setup key login batch completions' -s P -l profile -x -a '(__gptpipe_profiles)' -d 'provider, or a profile of the configuration file (openai)'
complete -c gptpipe -n '__gptpipe_at option run' -s m -l model -x -a '(__gptpipe_models)' -d 'model to ask (the profile\'s)'
complete -c gptpipe -n '__gptpipe_at option run setup key login batch' -l base-url -x -d 'address of the API, up to and with /v1 (the profile\'s)'
complete -c gptpipe -n '__gptpipe_at option run' -l api -x -a 'chat responses' -d 'kind of API: chat or responses (the profile\'s)'
complete -c gptpipe -n '__gptpipe_at option run' -l param -x -d 'further field, such as temperature=0; repeatable'
complete -c gptpipe -n '__gptpipe_at option run' -l max-output-tokens -x -d 'upper bound of a reply, in tokens (the server\'s)'
complete -c gptpipe -n '__gptpipe_at option run setup key' -l no-check -d 'with setup: store the key without asking the server'
complete -c gptpipe -n '__gptpipe_at option run login' -l revoke -d 'with login: give the login back'
complete -c gptpipe -n '__gptpipe_at option run' -l demo -d 'try it without a key: a small program summarizes'
complete -c gptpipe -n '__gptpipe_at option run' -s c -l chunk-tokens -x -d 'upper bound of a chunk, in tokens (2000)'
complete -c gptpipe -n '__gptpipe_at option run' -s b -l by -x -a 'sentence paragraph line file' -d 'where to cut: sentence, paragraph, line or file (sentence)'
complete -c gptpipe -n '__gptpipe_at option run' -l context -x -d 'show the model up to N tokens of what stands before (0)'
complete -c gptpipe -n '__gptpipe_at option run' -l flush-after -x -d 'send an unfinished chunk when input pauses so long (off)'
complete -c gptpipe -n '__gptpipe_at option run' -s j -l jobs -x -a 'auto' -d 'requests in flight at most, or auto (8)'
complete -c gptpipe -n '__gptpipe_at option run' -s r -l rate -x -d 'limit, such as 5/s or 100/m, shared by all your processes'
complete -c gptpipe -n '__gptpipe_at option run' -l token-rate -x -d 'limit of tokens, such as 90000/m, shared the same way'
complete -c gptpipe -n '__gptpipe_at option run' -l retries -x -d 'ask again at most so often when a request fails (5)'
complete -c gptpipe -n '__gptpipe_at option run' -l timeout -x -d 'give a server up after so long without a byte (120s)'
complete -c gptpipe -n '__gptpipe_at option run' -l on-error -x -a 'stop skip keep' -d 'when a chunk failed for good: stop, skip or keep (stop)'
complete -c gptpipe -n '__gptpipe_at option run' -l max-cost -x -d 'send nothing more once that may cost more than USD'
complete -c gptpipe -n '__gptpipe_at option run' -l max-tokens -x -d 'send nothing more once that may use more tokens than N'
complete -c gptpipe -n '__gptpipe_at option run' -l batch -d 'by the provider\'s Batch API: half the price, within a day'
complete -c gptpipe -n '__gptpipe_at option run' -s i -l in-place -d 'replace each FILE by its result, once all of it succeeded'
complete -c gptpipe -n '__gptpipe_at option run' -l backup -x -d 'keep what was replaced, with SUFFIX behind its name'
complete -c gptpipe -n '__gptpipe_at option run' -l dry-run -d 'print what would be sent, and send nothing'
complete -c gptpipe -n '__gptpipe_at option run' -l no-cache -d 'neither use remembered replies nor remember any'
complete -c gptpipe -n '__gptpipe_at option run' -l refresh -d 'ask anew, and remember the replies'
complete -c gptpipe -n '__gptpipe_at option run' -l cache-only -d 'send nothing: only remembered replies'
complete -c gptpipe -n '__gptpipe_at option run' -l cache-ttl -x -d 'use no reply that is older (24h)'
complete -c gptpipe -n '__gptpipe_at option run cache' -l cache -r -F -d 'remember in FILE, or only during the run (:memory:)'
complete -c gptpipe -n '__gptpipe_at option run' -l log -r -F -d 'add a line of JSON for each request to FILE, without text'
complete -c gptpipe -n '__gptpipe_at option run' -l metrics -r -F -d 'write the totals to FILE at the end, for Prometheus'
complete -c gptpipe -n '__gptpipe_at option run' -l format -x -a 'text jsonl' -d 'write replies as text, or jsonl: one object a chunk (text)'
complete -c gptpipe -n '__gptpipe_at option run' -l schema -r -F -d 'replies have to be JSON that follows this JSON Schema'
complete -c gptpipe -n '__gptpipe_at option run' -l unfence -d 'keep only what is inside a reply\'s code fence'
complete -c gptpipe -n '__gptpipe_at option run' -l join -x -a 'source line blank' -d 'put between replies: source, line or blank (source)'
complete -c gptpipe -n '__gptpipe_at option run' -l live -d 'stream the next reply as it arrives (on a terminal)'
complete -c gptpipe -n '__gptpipe_at option run' -l whole -d 'write only whole replies (elsewhere)'
complete -c gptpipe -n '__gptpipe_at option run' -l progress -x -a 'auto always never' -d 'show progress: auto, always or never (auto)'
complete -c gptpipe -n '__gptpipe_at option run setup key login cache batch completions' -s q -l quiet -d 'no warnings and no progress'
complete -c gptpipe -n '__gptpipe_at option run setup key login cache batch completions' -s v -l verbose -d 'say what is done, a line for each request'
complete -c gptpipe -n '__gptpipe_at option run setup key login cache batch completions' -s h -l help -d 'print this help'
complete -c gptpipe -n '__gptpipe_at option run setup key login cache batch completions' -s V -l version -d 'print the version'
complete -c gptpipe -n '__gptpipe_at option usage' -l since -x -d 'only of the last DUR, such as 7d (all that is kept)'
complete -c gptpipe -n '__gptpipe_at option usage' -l by -x -a 'model day profile host' -d 'a row for each model, day, profile or host (model)'
complete -c gptpipe -n '__gptpipe_at option usage' -l format -x -a 'text jsonl' -d 'text or jsonl (text)'
complete -c gptpipe -n '__gptpipe_at option usage' -l audit -d 'a line of JSON for each request'
complete -c gptpipe -n '__gptpipe_at option usage' -s h -l help -d 'print this help'
complete -c gptpipe -n '__gptpipe_at option metrics' -l listen -x -d 'serve them under /metrics, such as at 127.0.0.1:9464'
complete -c gptpipe -n '__gptpipe_at option metrics' -s h -l help -d 'print this help'
complete -c gptpipe -n '__gptpipe_at command' -f -a setup -d 'put a key into the system\'s keyring'
complete -c gptpipe -n '__gptpipe_at command' -f -a key -d 'where the key in use comes from; never the key'
complete -c gptpipe -n '__gptpipe_at word key 1' -f -a show -d 'tell where the key comes from, and how old it is'
complete -c gptpipe -n '__gptpipe_at word key 1' -f -a list -d 'tell the profiles that have one'
complete -c gptpipe -n '__gptpipe_at word key 1' -f -a rotate -d 'put another one in its place'
complete -c gptpipe -n '__gptpipe_at word key 1' -f -a remove -d 'take it out of the keyring'
complete -c gptpipe -n '__gptpipe_at command' -f -a login -d 'log in at the profile\'s OAuth server'
complete -c gptpipe -n '__gptpipe_at command' -f -a cache -d 'what is remembered: tell, tidy up, forget'
complete -c gptpipe -n '__gptpipe_at word cache 1' -f -a stats -d 'tell how much is remembered'
complete -c gptpipe -n '__gptpipe_at word cache 1' -f -a prune -d 'take away what is too old or too much'
complete -c gptpipe -n '__gptpipe_at word cache 1' -f -a clear -d 'forget everything'
complete -c gptpipe -n '__gptpipe_at command' -f -a usage -d 'what requests there were, and what they cost'
complete -c gptpipe -n '__gptpipe_at command' -f -a metrics -d 'the same for Prometheus'
complete -c gptpipe -n '__gptpipe_at command' -f -a batch -d 'what --batch submitted: tell how far it is, cancel it'
complete -c gptpipe -n '__gptpipe_at word batch 1' -f -a list -d 'tell the batches, the newest last'
complete -c gptpipe -n '__gptpipe_at word batch 1' -f -a cancel -d 'have the server cancel a batch'
complete -c gptpipe -n '__gptpipe_at command' -f -a completions -d 'print what lets a shell complete gptpipe\'s words'
complete -c gptpipe -n '__gptpipe_at word completions 1' -f -a bash -d 'for bash'
complete -c gptpipe -n '__gptpipe_at word completions 1' -f -a zsh -d 'for zsh'
complete -c gptpipe -n '__gptpipe_at word completions 1' -f -a fish -d 'for fish'
