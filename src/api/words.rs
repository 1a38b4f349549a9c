//! Other people's words, made fit for one line on a terminal.
//!
//! What a server says is shown to the user, so it must neither move the cursor nor fill the screen, nor give away
//! a key: servers quote keys back, in part or as a hash.

use crate::secret::redact::{Words, redact};

/// The longest message that is kept, in characters.
const LONGEST: usize = 500;

/// The most characters of a request's name that are kept.
const LONGEST_ID: usize = 128;

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
    let line = redact(line.trim_end(), Words::Foreign);
    let line = line.strip_suffix('.').unwrap_or(&line);
    match line.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line.to_owned(),
    }
}

/// The name of a request, should it be one, in what a server calls so; without keys before it is cut to what is kept.
#[must_use]
pub fn id_of(text: &str) -> Option<String> {
    let id: String = text.chars().filter(char::is_ascii_graphic).collect();
    let id: String = redact(&id, Words::Own).chars().take(LONGEST_ID).collect();
    (!id.is_empty()).then_some(id)
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
