//! Other people's words, made fit for one line on a terminal.
//!
//! What a server says is shown to the user, so it must neither move the cursor nor fill the screen, nor give away
//! a key: servers quote keys back, in part or as a hash.

/// The longest message that is kept, in characters.
const LONGEST: usize = 500;

/// Whether a body is a web page.
#[must_use]
pub fn is_html(body: &str) -> bool {
    let body = body.trim_start_matches('\u{feff}').trim_start();
    let start: String = body
        .chars()
        .take(16)
        .collect::<String>()
        .to_ascii_lowercase();
    [
        "<!doctype",
        "<html",
        "<head",
        "<body",
        "<?xml",
        "<center",
        "<h1",
    ]
    .iter()
    .any(|tag| start.starts_with(tag))
}

/// What a web page is about: its title, else its first words.
#[must_use]
pub fn html_title(body: &str) -> String {
    let lower = body.to_ascii_lowercase();
    for tag in ["title", "h1"] {
        let text = lower.find(&format!("<{tag}")).and_then(|start| {
            let start = start + lower[start..].find('>')? + 1;
            let end = start + lower[start..].find("</")?;
            Some(body[start..end].trim())
        });
        if let Some(text) = text.filter(|text| !text.is_empty()) {
            return text.to_owned();
        }
    }
    let mut is_tag = false;
    let text = body.chars().filter(|&c| {
        let was_tag = is_tag;
        is_tag = if is_tag { c != '>' } else { c == '<' };
        !was_tag && !is_tag
    });
    text.take(LONGEST).collect()
}

/// What stands where a key stood.
pub const REDACTED: &str = "[redacted]";

/// Makes one short line of what a server said, fit for a terminal, and without keys.
#[must_use]
pub fn clean(text: &str) -> String {
    let mut line = String::new();
    // Enough is read to fill the line even if much of it is white space.
    for c in text.chars().take(LONGEST * 8) {
        if c.is_whitespace() || c.is_control() {
            if !line.is_empty() && !line.ends_with(' ') {
                line.push(' ');
            }
        } else if !matches!(c, '\u{feff}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{2069}')
        {
            line.push(c);
        }
    }
    let line = redact(line.trim_end());
    let line = line.strip_suffix('.').unwrap_or(&line);
    match line.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line.to_owned(),
    }
}

/// Takes out what looks like a key: servers quote it back, `OpenAI` in part, `LiteLLM` as a hash.
fn redact(line: &str) -> String {
    let is_part = |c: char| c.is_ascii_alphanumeric() || "-_.*~+".contains(c);
    let mut out = String::with_capacity(line.len());
    let mut rest = line;
    let mut after_bearer = false;
    let mut in_secret = false;
    while let Some(first) = rest.chars().next() {
        if !is_part(first) || first == '.' {
            // A key may hold these, so they do not end it.
            in_secret &= "/=:".contains(first);
            if !in_secret {
                out.push(first);
            }
            rest = &rest[first.len_utf8()..];
            continue;
        }
        let end = rest.find(|c| !is_part(c)).unwrap_or(rest.len());
        // A full stop after a word is not of the word.
        let part = rest[..end].trim_end_matches('.');
        rest = &rest[part.len()..];
        if in_secret {
            continue;
        }
        in_secret = looks_secret(part) || (after_bearer && part.len() >= 8);
        out.push_str(if in_secret { REDACTED } else { part });
        after_bearer = part.eq_ignore_ascii_case("bearer");
    }
    out
}

fn looks_secret(part: &str) -> bool {
    let prefixes = [
        "sk-", "sk_", "rk-", "csk-", "gsk_", "xai-", "pplx-", "nvapi-", "hf_", "AIza", "ya29.",
        "eyJ",
    ];
    let rest = prefixes.iter().find_map(|prefix| part.strip_prefix(prefix));
    let is_hash = part.len() >= 32
        && part.bytes().all(|byte| byte.is_ascii_alphanumeric())
        && part.bytes().any(|byte| byte.is_ascii_digit())
        && part.bytes().any(|byte| byte.is_ascii_alphabetic());
    rest.is_some_and(|rest| rest.trim_start_matches('.').len() >= 4)
        || part.contains("***")
        || is_hash
}
/// The host of an absolute URL, without the rest, which may hold secrets.
#[must_use]
pub fn host_of(url: &str) -> Option<String> {
    let rest = url
        .split_once("://")
        .map(|(_, rest)| rest)
        .or_else(|| url.strip_prefix("//"))?;
    let authority = rest.split(['/', '?', '#', '\\']).next()?;
    let host = authority.rsplit('@').next()?;
    (!host.is_empty()).then(|| host.to_owned())
}
