//! A chunk and what became of it as one line of JSON, for `--format jsonl`.

use std::borrow::Cow;

use serde::Serialize;

/// One line. Its members are always the same; what is not known is null.
#[derive(Clone, Debug, Serialize)]
pub struct Record<'a> {
    /// The chunk's number, from 1, as messages name it.
    pub index: u64,
    /// The file, as the user named it.
    pub file: Option<&'a str>,
    /// Where in the file its text begins, in bytes.
    pub start: Option<u64>,
    /// Where it ends: the byte after its last.
    pub end: Option<u64>,
    /// The line that it begins on, from 1.
    pub line: Option<u64>,
    /// The reply, or with `--on-error keep` the chunk's own text.
    pub text: Option<Cow<'a, str>>,
    /// Why there is no reply.
    pub error: Option<Fault<'a>>,
    /// Why the reply ended, in the API's words.
    pub finish_reason: Option<&'static str>,
    /// The model that answered, as it calls itself.
    pub model: Option<&'a str>,
    /// What the server counted.
    pub usage: Option<Tokens>,
    /// Whether the reply was remembered and nothing was sent.
    pub cached: bool,
    /// Requests that were sent.
    pub attempts: u32,
    /// Time from the first request to the end, in seconds; null where none was sent.
    pub latency: Option<f64>,
}

/// Why a chunk has no reply.
#[derive(Clone, Debug, Serialize)]
pub struct Fault<'a> {
    /// One word, for programs.
    pub kind: &'static str,
    /// The HTTP status.
    pub status: Option<u16>,
    /// A sentence, for people.
    pub message: &'a str,
}

/// Tokens as the server counted them.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Tokens {
    /// Those of the request.
    pub prompt_tokens: u64,
    /// Those of the reply.
    pub completion_tokens: u64,
    /// Those of the request that came out of the server's own cache.
    pub cached_tokens: u64,
}

impl Record<'_> {
    /// Writes the line with its end.
    pub fn write(&self, out: &mut String) {
        // Nothing in it can fail to be written as JSON: no maps, no keys but ours.
        if let Ok(json) = serde_json::to_string(self) {
            out.push_str(&json);
            out.push('\n');
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_one_line_whatever_the_text() {
        let record = Record {
            index: 1,
            file: Some("a\nb"),
            start: Some(0),
            end: Some(3),
            line: Some(1),
            text: Some(Cow::Borrowed("x\n\u{2028}\"\u{1b}")),
            error: None,
            finish_reason: Some("stop"),
            model: None,
            usage: None,
            cached: false,
            attempts: 1,
            latency: Some(0.25),
        };
        let mut out = String::new();
        record.write(&mut out);
        assert_eq!(
            out,
            "{\"index\":1,\"file\":\"a\\nb\",\"start\":0,\"end\":3,\"line\":1,\
             \"text\":\"x\\n\u{2028}\\\"\\u001b\",\"error\":null,\"finish_reason\":\"stop\",\
             \"model\":null,\"usage\":null,\"cached\":false,\"attempts\":1,\"latency\":0.25}\n"
        );
    }
}
