//! A wrong line of the configuration file, in words for whoever wrote it.
//!
//! The parser's own words are about types and grammar; they are kept only where nothing better is known.

use argh::ArgsInfo as _;

use crate::cli::args::Cli;
use crate::error::Error;

/// How a message calls what must not be in the file.
pub(super) const SECRET: &str = "a key in the clear";

/// What a message says of a field of requests that nobody else may set.
pub(super) const WRITTEN: &str = "gptpipe itself writes the field";

/// Names under which people put a key into the file.
const KEYS: [&str; 7] = [
    "api-key", "api_key", "apikey", "key", "token", "secret", "password",
];

/// The way out for who put one there.
const MOVE: &str = "keys do not belong into a file; `gptpipe setup` moves it into the keyring, \
`key-command` gets it from a password manager, and `key-env` names a variable that has it";

/// The error with the file, the line and the key of the first wrong line of `text`.
pub(super) fn wrong_line(text: &str, name: &str, error: &toml::de::Error) -> Error {
    let at = error.span().map_or(0, |span| span.start.min(text.len()));
    let number = text[..at].matches('\n').count() + 1;
    let line = text.lines().nth(number - 1).unwrap_or_default().trim();
    let key = line.split('=').next().unwrap_or_default().trim();
    // What follows a blank is a value, though the sign is missing.
    let word = key.split_whitespace().next().unwrap_or_default();
    let key = if line.starts_with('[') { key } else { word };
    let said = error.message().lines().next().unwrap_or_default();
    let (what, hint) = in_words(said.trim_end_matches('.'), key, line);
    let subject = if key.is_empty() {
        String::new()
    } else {
        format!(" `{key}`:")
    };
    let message = format!("{name}:{number}:{subject} {what}");
    match hint {
        Some(hint) => Error::usage_hint(message, hint),
        None => Error::usage(message),
    }
}

/// What is wrong, and what to do about it.
fn in_words(said: &str, key: &str, line: &str) -> (String, Option<String>) {
    let value = line.split_once('=').map(|(_, value)| value.trim());
    let is = |words: &str| said.contains(words);
    if is(SECRET) {
        return (said.to_owned(), Some(MOVE.to_owned()));
    }
    if is("unknown field") {
        let hint = unknown(said, key);
        return ("unknown key".to_owned(), Some(hint));
    }
    if is(WRITTEN) {
        let hint = if said.ends_with("`model`") {
            "leave it out; the key `model` names the profile's model"
        } else {
            "leave it out"
        };
        return (said.to_owned(), Some(hint.to_owned()));
    }
    // Whatever else is wrong with it: the line is not repeated, and nobody is told to mend it.
    if KEYS.contains(&key) && line != key && value != Some("") {
        return (format!("this may be {SECRET}"), Some(MOVE.to_owned()));
    }
    if line.starts_with("[profile.") || line.starts_with("[profile]") {
        return (
            "`profile` is a key, and its value the name of a profile".to_owned(),
            Some(format!(
                "a profile of your own has the heading `{}`",
                line.replacen("profile", "profiles", 1)
            )),
        );
    }
    if is("expected struct ProfileTable") {
        return (
            "stands where the name of a profile belongs".to_owned(),
            Some("a profile has a heading with its name, `[profiles.NAME]`".to_owned()),
        );
    }
    match value {
        Some("") => return ("has no value".to_owned(), None),
        Some(value) if is("must be quoted") => {
            let value = value.split('#').next().unwrap_or_default().trim();
            let hint = format!("write `{key} = \"{value}\"`");
            return ("text needs quotes".to_owned(), Some(hint));
        }
        None if is("key with no value") => {
            return (
                "has no value".to_owned(),
                Some("a line is `key = value`".to_owned()),
            );
        }
        _ => {}
    }
    let takes = if is("expected a nonzero") {
        "takes a whole number from 1"
    } else if is("expected u32") || is("expected usize") {
        "takes a whole number, 0 for none"
    } else if is("expected f64") {
        "takes a number"
    } else if is("expected a boolean") {
        "takes true or false"
    } else if is("expected a string") {
        "takes text in quotes"
    } else if is(", expected struct ") {
        "takes a table of its own"
    } else {
        // The value is not repeated: it need not be meant for anybody's eyes.
        let expected = said.rsplit_once(", expected ");
        let expected = expected.filter(|_| said.starts_with("invalid "));
        return match expected {
            Some((_, expected)) if said.contains(['"', '`']) => (format!("takes {expected}"), None),
            _ => (said.to_owned(), None),
        };
    };
    (takes.to_owned(), None)
}

/// The way out after a key that there is not.
fn unknown(said: &str, key: &str) -> String {
    if KEYS.contains(&key) {
        return MOVE.to_owned();
    }
    let known: Vec<&str> = said.split('`').skip(3).step_by(2).collect();
    let nearest = known
        .iter()
        .map(|word| (strsim::damerau_levenshtein(word, key), *word))
        .filter(|(distance, _)| *distance <= 1 + key.len() / 4)
        .min();
    match nearest {
        Some((_, word)) => format!("did you mean `{word}`?"),
        // What says something about one run is no key of the file.
        None if is_option(key) => format!("`--{key}` is for the command line alone"),
        None => format!("the keys here are {}", known.join(", ")),
    }
}

fn is_option(key: &str) -> bool {
    let flags = Cli::get_args_info().flags;
    flags
        .iter()
        .any(|flag| flag.long.trim_start_matches('-') == key)
}

#[cfg(test)]
mod tests {
    use crate::config::file::parse;

    #[test]
    fn a_wrong_line_is_told_in_words_for_people() {
        for (text, message, hint) in [
            ("jobs = \n", "`jobs`: has no value", ""),
            ("jobs\n", "`jobs`: has no value", "a line is `key = value`"),
            (
                "timeout = 5m # five\n",
                "`timeout`: text needs quotes",
                "write `timeout = \"5m\"`",
            ),
            ("model = 3\n", "`model`: takes text in quotes", ""),
            ("retries = -1\n", "`retries`: takes a whole number, 0", ""),
            (
                "chunk-tokens = 0\n",
                "`chunk-tokens`: takes a whole number from 1",
                "",
            ),
            (
                "[cache]\nenabled = 1\n",
                "`enabled`: takes true or false",
                "",
            ),
            (
                "# one\n[ledger]\nretention = '0d'\n",
                "c.toml:3: `retention`: takes a time from 1ms to 365d",
                "",
            ),
            (
                "[budget]\nday = '1'\n",
                "c.toml:2: `day`: takes a number",
                "",
            ),
            (
                "[profiles.p]\nparams = { top_p = 1, model = 'x' }\n",
                "c.toml:2: `params`: gptpipe itself writes the field `model`",
                "leave it out; the key `model` names the profile's model",
            ),
            (
                "[profiles.p.params]\ntop_p = 1\nstream = false\n",
                "c.toml:3: `stream`: gptpipe itself writes the field `stream`",
                "leave it out",
            ),
            (
                "[profile.corp]\nmodel = 'x'\n",
                "`[profile.corp]`: `profile` is a key",
                "a profile of your own has the heading `[profiles.corp]`",
            ),
            (
                "[profiles]\nbase-url = 'x'\n",
                "`base-url`: stands where the name of a profile belongs",
                "a profile has a heading with its name",
            ),
            (
                "quiet = true\n",
                "`quiet`: unknown key",
                "`--quiet` is for the command line alone",
            ),
            (
                "colour = 'x'\n",
                "`colour`: unknown key",
                "the keys here are profile, model, ",
            ),
        ] {
            let error = parse(text, "c.toml").unwrap_err();
            assert!(error.to_string().contains(message), "{error}");
            let said = error.hint().unwrap_or_default();
            assert!(said.starts_with(hint), "{message}: {said}");
            assert_eq!(said.is_empty(), hint.is_empty(), "{message}: {said}");
        }
    }
}
