//! Takes keys out of text that is to be shown.
//!
//! Two kinds: the secrets that are in use, wherever and however they stand there, and whatever looks like one. Words
//! from elsewhere are treated with more suspicion than our own, in which a file may well be called `sk-learn.txt`.

use std::borrow::Cow;

use crate::secret::secret::Secret;

/// What stands where a key stood.
pub const REDACTED: &str = "[redacted]";

/// A secret in use that is shorter than this is a word such as `none`, which servers of one's own are given and
/// which stands in sentences.
pub const SHORTEST: usize = 8;

/// How keys of well-known makers begin.
const PREFIXES: [&str; 27] = [
    "sk-",
    "sk_",
    "rk-",
    "rk_",
    "pk-",
    "csk-",
    "gsk_",
    "xai-",
    "pplx-",
    "nvapi-",
    "hf_",
    "r8_",
    "fw_",
    "tgp_v1_",
    "sess-",
    "AIza",
    "ya29.",
    "eyJ",
    "ghp_",
    "gho_",
    "ghs_",
    "github_pat_",
    "glpat-",
    "AKIA",
    "ASIA",
    "xoxb-",
    "xoxp-",
];

/// Words whose value is a secret.
const NAMES: [&str; 21] = [
    "key",
    "api_key",
    "api-key",
    "apikey",
    "x-api-key",
    "x-goog-api-key",
    "token",
    "access_token",
    "refresh_token",
    "id_token",
    "auth_token",
    "device_code",
    "secret",
    "client_secret",
    "client_assertion",
    "password",
    "passwd",
    "pwd",
    "sig",
    "signature",
    "authorization",
];

/// Whose words they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Words {
    /// Ours, which may name files.
    Own,
    /// A server's or another program's. They quote keys in part, or as a hash.
    Foreign,
}

/// The text without keys.
#[must_use]
pub fn redact(text: &str, words: Words) -> String {
    let mut text = Cow::Borrowed(text);
    for secret in Secret::alive() {
        if secret.expose().len() >= SHORTEST
            && let Some(hidden) = without(&text, secret.expose())
        {
            text = Cow::Owned(hidden);
        }
    }
    without_lookalikes(&without_users(&text), words)
}

/// The text without a secret, also where it is escaped or broken over lines; `None` when it is not in there.
#[must_use]
pub fn without(text: &str, secret: &str) -> Option<String> {
    let first = secret.chars().next()?;
    let mut out = String::new();
    let mut rest = text;
    let mut is_found = false;
    while let Some(c) = rest.chars().next() {
        // An escape can stand for the first character too.
        let may_begin = c == first || matches!(c, '\\' | '%');
        let length = [false, true]
            .into_iter()
            .filter(|_| may_begin)
            .find_map(|is_escaped| length_at(rest, secret, is_escaped));
        if let Some(length) = length {
            is_found = true;
            out.push_str(REDACTED);
            rest = &rest[length..];
        } else {
            out.push(c);
            rest = &rest[c.len_utf8()..];
        }
    }
    is_found.then_some(out)
}

/// How much of the text, from its beginning, is the secret; with `escaped`, as JSON or a URL would write it. What looks
/// like an escape may be the secret's own characters, so both readings are followed.
fn length_at(text: &str, secret: &str, escaped: bool) -> Option<usize> {
    let mut ends = vec![0];
    for (number, wanted) in secret.chars().enumerate() {
        let mut next = Vec::new();
        for mut at in ends {
            while let Some(c) = text[at..].chars().next() {
                let rest = &text[at..];
                if escaped {
                    next.extend(escapes(rest, wanted).map(|length| at + length));
                }
                if c == wanted {
                    next.push(at + c.len_utf8());
                }
                let gap = gap(rest);
                if gap == 0 || number == 0 {
                    break;
                }
                at += gap;
            }
        }
        next.sort_unstable();
        next.dedup();
        ends = next;
    }
    ends.pop()
}

/// The length of what can stand inside a word that was broken over lines.
fn gap(text: &str) -> usize {
    if ["\\n", "\\r", "\\t", "\\\n"]
        .iter()
        .any(|gap| text.starts_with(gap))
    {
        return 2;
    }
    text.chars()
        .next()
        .filter(|c| {
            c.is_whitespace() || c.is_control() || matches!(c, '\u{200b}'..='\u{200f}' | '\u{ad}')
        })
        .map_or(0, char::len_utf8)
}

/// The lengths of the escapes of JSON or of a URL at the beginning that stand for this character, however often it was
/// escaped: servers quote the errors of servers behind them.
fn escapes(text: &str, wanted: char) -> impl Iterator<Item = usize> {
    let code = |digits: Option<&str>| {
        u32::from_str_radix(digits?, 16)
            .ok()
            .and_then(char::from_u32)
    };
    let slashes = text.bytes().take_while(|byte| *byte == b'\\').count();
    let rest = &text[slashes..];
    let is_named = matches!(wanted, '"' | '/') && rest.starts_with(wanted);
    let is_numbered =
        rest.starts_with('u') && code(rest.get(1..5)).is_some_and(|found| found == wanted);
    let (shortest, longest) = match wanted {
        '\\' => (2, slashes),
        _ if slashes > 0 && is_named => (slashes + 1, slashes + 1),
        _ if slashes > 0 && is_numbered => (slashes + 5, slashes + 5),
        _ => (1, 0),
    };
    // Every `25` may be another `%` that was escaped, or what is written.
    let after = text.strip_prefix('%').unwrap_or_default();
    let digits = after.len() - after.trim_start_matches("25").len();
    let percent = (0..=digits).step_by(2).filter(move |start| {
        code(after.get(*start..start + 2)).is_some_and(|found| found.is_ascii() && found == wanted)
    });
    let percent = percent.map(|start| start + 3);
    (shortest..=longest).chain(percent)
}

/// The text without user names and passwords in URLs.
fn without_users(text: &str) -> Cow<'_, str> {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let (before, after) = rest.split_at(at + 3);
        let end = after
            .find(|c: char| c.is_whitespace() || "/?#\"'`<>".contains(c))
            .unwrap_or(after.len());
        out.push_str(before);
        rest = match after[..end].rfind('@') {
            Some(user) => {
                out.push_str(REDACTED);
                &after[user..]
            }
            None => after,
        };
    }
    if out.is_empty() {
        return Cow::Borrowed(text);
    }
    out.push_str(rest);
    Cow::Owned(out)
}

/// What the words before a value say of it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Before {
    Nothing,
    /// `Bearer`, or another scheme of HTTP.
    Scheme,
    /// A name such as `api_key`, and no sign yet that its value follows.
    Name,
    /// The name and `=`, or a colon and a quote.
    Assigned,
    /// The name and a colon.
    Colon,
    /// A key, and only what may be inside of one since.
    Secret,
    /// A key, and white space since.
    Broken,
}

/// The text without what looks like a key.
fn without_lookalikes(text: &str, words: Words) -> String {
    let is_part = |c: char| c.is_ascii_alphanumeric() || "-_.*~+".contains(c);
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    let mut before = Before::Nothing;
    while let Some(first) = rest.chars().next() {
        if !is_part(first) || first == '.' {
            before = match (before, first) {
                // A key may hold these, so they do not end it.
                (Before::Secret, '/' | '=' | ':' | '%') => Before::Secret,
                (Before::Secret | Before::Broken, c) if c.is_whitespace() => Before::Broken,
                (Before::Scheme | Before::Assigned, c)
                    if c.is_whitespace() || "\"'`".contains(c) =>
                {
                    before
                }
                (Before::Name, ':') => Before::Colon,
                (Before::Name, '"' | '\'') => Before::Name,
                (Before::Name, '=') | (Before::Colon, '"' | '\'') => Before::Assigned,
                (Before::Colon, c) if c.is_whitespace() => Before::Colon,
                _ => Before::Nothing,
            };
            if before != Before::Secret {
                out.push(first);
            }
            rest = &rest[first.len_utf8()..];
            continue;
        }
        let end = rest.find(|c| !is_part(c)).unwrap_or(rest.len());
        // A full stop after a word is not of the word.
        let part = rest[..end].trim_end_matches('.');
        rest = &rest[part.len()..];
        if before == Before::Secret {
            continue;
        }
        let lower = part.to_ascii_lowercase();
        let is_scheme = ["bearer", "basic"].contains(&lower.as_str());
        let is_secret = looks_secret(part, words)
            || match before {
                Before::Scheme => part.len() >= 8,
                Before::Assigned => !is_scheme,
                Before::Colon => part.len() >= 8 && is_mixed(part),
                Before::Broken => part.len() >= 16 && is_mixed(part),
                Before::Nothing | Before::Name | Before::Secret => false,
            };
        if is_secret {
            // The rest of a broken one has its mark already.
            if before == Before::Broken {
                out.truncate(out.trim_end().len());
            } else {
                out.push_str(REDACTED);
            }
            before = Before::Secret;
            continue;
        }
        out.push_str(part);
        before = if is_scheme {
            Before::Scheme
        } else if NAMES.contains(&lower.as_str()) {
            Before::Name
        } else {
            Before::Nothing
        };
    }
    out
}

/// Whether a word begins as keys do, and is long enough for one.
#[must_use]
pub fn looks_secret(part: &str, words: Words) -> bool {
    let rest = PREFIXES.iter().find_map(|prefix| part.strip_prefix(prefix));
    let rest = rest.map(|rest| rest.trim_start_matches('.'));
    // Mailgun's and others': too much of a word to be more than a hint.
    let is_named = part
        .strip_prefix("key-")
        .is_some_and(|rest| rest.len() >= 16 && is_mixed(rest));
    match words {
        Words::Own => is_named || rest.is_some_and(|rest| rest.len() >= 16 && is_mixed(rest)),
        Words::Foreign => {
            let is_hash = part.len() >= 32
                && part.bytes().all(|byte| byte.is_ascii_alphanumeric())
                && is_mixed(part);
            is_named || rest.is_some_and(|rest| rest.len() >= 4) || part.contains("***") || is_hash
        }
    }
}

/// Whether it has letters and digits, as keys have and words have not.
fn is_mixed(part: &str) -> bool {
    part.bytes().any(|byte| byte.is_ascii_digit())
        && part.bytes().any(|byte| byte.is_ascii_alphabetic())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Keys as their makers make them.
    const KEYS: [&str; 12] = [
        "sk-proj-Zr8vGq2T0b1XcYw4Hn6LkPs9dFjE3uAoM7iQ",
        "sk-svcacct-Zr8vGq2T0b1XcYw4Hn6LkPs9dFjE3uAoM7iQ",
        "sk-admin-Zr8vGq2T0b1XcYw4Hn6LkPs9dFjE3uAoM7iQ",
        "sk-ant-api03-Zr8vGq2T0b1XcYw4Hn6LkPs9dFjE3uAo-M7iQAA",
        "sk-or-v1-0a1b2c3d4e5f60718293a4b5c6d7e8f90a1b2c3d4e5f6071",
        "gsk_Zr8vGq2T0b1XcYw4Hn6LkPs9dFjE3uAoM7iQ",
        "xai-Zr8vGq2T0b1XcYw4Hn6LkPs9dFjE3uAoM7iQ",
        "AIzaSyZr8vGq2T0b1XcYw4Hn6LkPs9dFjE3uAoM",
        "hf_Zr8vGq2T0b1XcYw4Hn6LkPs9dFjE3uAoM7iQ",
        "key-0a1b2c3d4e5f60718293a4b5c6d7e8f9",
        "nvapi-Zr8vGq2T0b1XcYw4Hn6LkPs9dFjE3uAoM7iQ",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9P",
    ];

    /// No eight characters in a row of the key are left.
    fn is_gone(key: &str, text: &str) -> bool {
        let text: String = text.chars().filter(|c| !c.is_whitespace()).collect();
        key.as_bytes()
            .windows(8)
            .all(|window| !text.contains(std::str::from_utf8(window).unwrap()))
    }

    #[test]
    fn what_looks_like_a_key_is_taken_out_of_anybodys_words() {
        for key in KEYS {
            for words in [Words::Own, Words::Foreign] {
                for text in [
                    format!("the key {key} was refused"),
                    format!("Authorization: Bearer {key}\n"),
                    format!("{{\"error\":\"bad \\\"{key}\\\"\"}}"),
                    format!("(`{key}`)."),
                    format!("https://host/v1?alt=sse&key={key}&x=1"),
                ] {
                    let shown = redact(&text, words);
                    assert!(is_gone(key, &shown), "{text} -> {shown}");
                    assert!(shown.contains(REDACTED), "{text} -> {shown}");
                }
            }
        }
    }

    #[test]
    fn what_is_named_as_one_is_too() {
        for text in [
            "api_key=hunter2secret",
            "https://h/v1?token=hunter2secret&x",
            "{\"password\": \"hunter2secret\"}",
            "{\"access_token\":\"hunter2secret\",\"expires_in\":3}",
            "client_secret: hunter2secret",
            "https://user:hunter2secret@host/v1",
            "Authorization: Basic hunter2secret",
            "authorization: bearer hunter2secret",
        ] {
            let shown = redact(text, Words::Own);
            assert!(!shown.contains("hunter2"), "{text} -> {shown}");
        }
    }

    #[test]
    fn sentences_and_file_names_stay() {
        for text in [
            "cannot read `sk-learn-notes.txt`: no such file or directory",
            "there is no key for the profile `openai`",
            "the key: it is missing; put it into OPENAI_API_KEY",
            "key-command, key-env and max-age are keys of the file",
            "cannot read `0123456789abcdef0123456789abcdef.txt`",
            "chunk 12 (bytes 4-90, line 3 of a.txt) failed: 429 rate_limit_exceeded (request req_0a1b2c3d4e5f)",
            "asking gpt-6-luna at api.openai.com, profile openai; tokens counted by O200k",
            "`--param temperature=x`: https://api.openai.com/v1 is no base URL",
        ] {
            assert_eq!(redact(text, Words::Own), text);
        }
    }

    #[test]
    fn a_secret_in_use_is_found_in_every_spelling() {
        let secret = Secret::new("q/w\"e\\r+t=y u\u{e9}i0".replace(' ', "")).unwrap();
        let json = serde_json::to_string(secret.expose()).unwrap();
        let ascii = json.replace('\u{e9}', "\\u00e9").replace('/', "\\/");
        for text in [
            format!("a{}b", secret.expose()),
            json,
            ascii,
            "q%2Fw%22e%5Cr%2Bt%3Dyu\u{e9}i0".to_owned(),
            secret.expose().replace('+', "+\n    "),
            secret.expose().replace('+', "\\\n+"),
            // Quoted by one who was quoted.
            serde_json::to_string(&serde_json::to_string(secret.expose()).unwrap()).unwrap(),
            "q%252Fw%2522e%255Cr%252Bt%253Dyu\u{e9}i0".to_owned(),
        ] {
            let shown = without(&text, secret.expose()).unwrap_or_default();
            assert!(shown.contains(REDACTED), "{text} -> {shown}");
            assert!(redact(&text, Words::Own).contains(REDACTED), "{text}");
        }
        assert_eq!(without("nothing of it", secret.expose()), None);
        // What looks like an escape is part of this one.
        let secret = "%25\\Aa!a\\\\n";
        for text in [
            secret.to_owned(),
            serde_json::to_string(secret).unwrap(),
            "%2525%5CAa%21a%5C%5Cn".to_owned(),
        ] {
            let shown = without(&text, secret).unwrap_or_default();
            assert_eq!(shown.trim_matches('"'), REDACTED, "{text}");
        }
    }

    proptest! {
        /// A secret in use is gone whatever stands around it and wherever lines break.
        #[test]
        fn no_secret_in_use_is_left(
            key in "[!-~]{8,60}",
            around in "[ -~\n]{0,40}",
            at in 0_usize..60,
            gap in "(|\n|\n  |\\\\n|\r\n)",
        ) {
            let secret = Secret::new(key.clone()).unwrap();
            let (left, right) = key.split_at(at.min(key.len()));
            let text = format!("{around}{left}{gap}{right}{around}");
            let shown = redact(&text, Words::Own);
            prop_assert!(!shown.contains(secret.expose()), "{shown}");
            let json = serde_json::to_string(&format!("{around} {key} {around}")).unwrap();
            let shown = redact(&json, Words::Own);
            let quoted = serde_json::to_string(&key).unwrap();
            let quoted = quoted.trim_matches('"');
            prop_assert!(!shown.contains(quoted) || around.contains(&key), "{shown}");
        }

        /// Neither is what looks like a key, wherever a line breaks in its second half.
        #[test]
        fn no_lookalike_is_left(
            prefix in prop::sample::select(&["sk-", "sk-proj-", "sk-ant-api03-", "sk-or-v1-", "gsk_", "xai-", "hf_", "AIzaSy"][..]),
            body in "[A-Za-z0-9]{16}[A-Za-z0-9_-]{16,60}0a",
            before in "[a-z ]{0,20}[ \"'`(=:\n]",
            after in "[ \"'`)&\n][a-z ]{0,20}",
        ) {
            let key = format!("{prefix}{body}");
            let shown = redact(&format!("{before}{key}{after}"), Words::Own);
            // Without a digit early on it is a word with a number at its end.
            prop_assert!(is_gone(&key, &shown), "{shown}");
        }

        /// Any text comes through, and comes through the same when there is nothing to hide.
        #[test]
        fn text_without_digits_and_marks_stays(text in "[a-z ,.\n]{0,200}") {
            prop_assert_eq!(redact(&text, Words::Foreign), text);
        }
    }
}
