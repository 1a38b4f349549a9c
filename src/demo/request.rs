//! Requests of both APIs, reduced to what matters to the demo.
//!
//! `/v1/chat/completions` has `messages`, `/v1/responses` has `instructions`
//! and `input`; here they become one conversation. Fields that are not known
//! are passed over, as real servers do, but those that the demo could only
//! pretend to obey are kept, so that it can refuse.

use serde_json::Value;

use crate::demo::refusal::Refusal;

/// Which of the two dialects a request speaks.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Api {
    Chat,
    Responses,
}

/// What matters of a request.
#[derive(Debug)]
pub(super) struct Conversation {
    pub(super) api: Api,
    /// The first system message.
    pub(super) system: String,
    /// The last user message, verbatim.
    pub(super) user: String,
    pub(super) stream: bool,
    /// The reply must follow a schema or be JSON.
    pub(super) wants_structure: bool,
    pub(super) include_usage: bool,
    /// The limit of the reply, which the demo counts in pieces.
    pub(super) max_pieces: usize,
    pub(super) input_tokens: u64,
}

impl Conversation {
    /// Reads a request body.
    pub(super) fn read(api: Api, body: &Value) -> Result<Self, Refusal> {
        let (list, format, limits): (_, _, &[&str]) = match api {
            Api::Chat => (
                "messages",
                &body["response_format"],
                &["max_completion_tokens", "max_tokens"],
            ),
            Api::Responses => ("input", &body["text"]["format"], &["max_output_tokens"]),
        };
        let mut system = body["instructions"].as_str().map(str::to_owned);
        let mut input_tokens = system.as_deref().map_or(0, count_tokens);
        let mut user = None;
        match &body[list] {
            Value::String(text) if api == Api::Responses => {
                input_tokens += count_tokens(text);
                user = Some(text.clone());
            }
            Value::Array(items) if !items.is_empty() => {
                for item in items {
                    let text = text_of(&item["content"])?;
                    input_tokens += count_tokens(&text);
                    match item["role"].as_str() {
                        Some("system" | "developer") => system = system.or(Some(text)),
                        Some("user") => user = Some(text),
                        Some(_) => {}
                        None => return Err(Refusal::bad_request("a message has no `role`", list)),
                    }
                }
            }
            _ => return Err(Refusal::bad_request("there are no messages", list)),
        }
        let limit = limits.iter().find_map(|name| body[*name].as_u64());
        Ok(Self {
            api,
            system: system.unwrap_or_default(),
            user: user.unwrap_or_default(),
            stream: body["stream"] == true,
            wants_structure: format["type"].as_str().is_some_and(|kind| kind != "text"),
            include_usage: body["stream_options"]["include_usage"] == true,
            max_pieces: limit.map_or(usize::MAX, |limit| {
                usize::try_from(limit).unwrap_or(usize::MAX).max(1)
            }),
            input_tokens,
        })
    }
}

/// The text of a message, which is a string or a list of parts.
fn text_of(content: &Value) -> Result<String, Refusal> {
    match content {
        Value::String(text) => Ok(text.clone()),
        Value::Array(parts) => parts
            .iter()
            // A picture or a recording takes a real model.
            .map(|part| part["text"].as_str().ok_or_else(Refusal::cannot))
            .collect(),
        _ => Ok(String::new()),
    }
}

/// About how many tokens a real model would count. Rather too many than too
/// few: a client takes a low count as a sign that input was dropped.
fn count_tokens(text: &str) -> u64 {
    let mut tokens = 0;
    // What is left of the token that is being read, and the bytes that tokens
    // of its kind have: few where chance decides, as in keys and hashes.
    let mut left = 0;
    let mut kind = 0;
    for c in text.chars() {
        let bytes = c.len_utf8();
        if !c.is_alphanumeric() || bytes > 2 {
            left = 0;
            tokens += match c {
                ' ' => 0,
                _ if bytes < 4 => 1,
                _ => 2,
            };
            continue;
        }
        let own = match c {
            _ if c.is_numeric() => 3,
            _ if c.is_uppercase() => 2,
            _ => 4,
        };
        // A capital begins a word of small letters; other changes end one.
        let goes_on = own == kind || (kind == 2 && own == 4);
        if left < bytes || !goes_on {
            tokens += 1;
            left = own.max(bytes);
        }
        left -= bytes;
        kind = own;
    }
    tokens
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn tokens_are_counted_about_right() {
        // The counts of o200k, which a client compares with ours.
        for (text, tokens) in [
            ("The quick brown fox jumps over the lazy dog.", 10),
            ("行道树是给城市降温最便宜的办法。", 14),
            ("9f86d081884c7d659a2feaa0c55ad015", 19),
            (
                "dGhpcyBpcyBhIHRlc3Qgb2YgYmFzZTY0IGVuY29kaW5nIHdpdGggcmFuZG9t",
                40,
            ),
            ("for (int i = 0; i < n; i++) { sum += a[i]; }", 21),
            ("", 0),
        ] {
            let count = count_tokens(text);
            let range = tokens * 3 / 4..=tokens * 2;
            assert!(range.contains(&count), "{count}, not {tokens}: {text}");
        }
    }

    #[test]
    fn both_dialects_say_the_same() {
        let chat = json!({ "messages": [
            { "role": "developer", "content": "Do it." },
            { "role": "user", "content": "First." },
            { "role": "assistant", "content": "Done." },
            { "role": "user", "content": [
                { "type": "text", "text": "Se" }, { "type": "text", "text": "cond." },
            ] },
        ] });
        let responses = json!({ "instructions": "Do it.", "input": "Second." });
        for (api, body) in [(Api::Chat, chat), (Api::Responses, responses)] {
            let conversation = Conversation::read(api, &body).expect("a conversation");
            assert_eq!(conversation.system, "Do it.");
            assert_eq!(conversation.user, "Second.");
            assert!(!conversation.stream && !conversation.wants_structure);
        }
    }
}
