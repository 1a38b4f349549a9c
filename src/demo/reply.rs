//! Replies of both APIs: whole as JSON, or piece by piece as events.
//!
//! The shapes are those that are documented for `/v1/chat/completions` and
//! `/v1/responses`, with the fields that their clients read. No HTTP here, and
//! no opinion on what a reply says.

use std::iter;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use serde_json::{Value, json};

use crate::demo::request::{Api, Conversation};

/// The name of the only model; requests may ask for any.
const MODEL: &str = "demo";

/// The longest piece of one word, in bytes; longer words come in several.
const MAX_PIECE: usize = 24;

/// When, in the course of a reply, an event comes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Part {
    /// Begins or ends a reply, without text.
    Envelope,
    /// The first piece of the text.
    First,
    /// A further piece.
    Next,
}

/// A reply, ready to be sent in either form.
pub(super) struct Reply {
    api: Api,
    id: String,
    created: u64,
    text: String,
    /// The limit of the request cut the text.
    is_cut: bool,
    include_usage: bool,
    input_tokens: u64,
    output_tokens: usize,
}

impl Reply {
    /// Answers `conversation` with `text`; `id` tells this reply from others.
    pub(super) fn new(conversation: &Conversation, mut text: String, id: u64) -> Self {
        let mut end = 0;
        let mut pieces = 0;
        while end < text.len() && pieces < conversation.max_pieces {
            end += piece_length(&text[end..]);
            pieces += 1;
        }
        let is_cut = end < text.len();
        text.truncate(end);
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        Self {
            api: conversation.api,
            id: format!("{id:016x}"),
            created: since.map_or(0, |since| since.as_secs()),
            text,
            is_cut,
            include_usage: conversation.include_usage,
            input_tokens: conversation.input_tokens,
            output_tokens: pieces,
        }
    }

    /// In how many pieces a stream gives the text.
    pub(super) fn pieces(&self) -> usize {
        self.output_tokens
    }

    /// The body of an answer that is not streamed.
    pub(super) fn whole(&self) -> Value {
        match self.api {
            Api::Chat => json!({
                "id": format!("chatcmpl-{}", self.id),
                "object": "chat.completion",
                "created": self.created,
                "model": MODEL,
                "choices": [{
                    "index": 0,
                    "message": {
                        "role": "assistant",
                        "content": self.text,
                        "refusal": null,
                        "annotations": [],
                    },
                    "logprobs": null,
                    "finish_reason": self.finish_reason(),
                }],
                "usage": self.usage(),
            }),
            Api::Responses => self.response(self.end_status(), &[self.item(self.end_status())]),
        }
    }

    /// The events of a stream, each as the bytes to send.
    pub(super) fn into_events(self) -> impl Iterator<Item = (Part, Bytes)> + Send {
        let (opening, closing) = match self.api {
            Api::Chat => (self.chat_opening(), self.chat_closing()),
            Api::Responses => (self.responses_opening(), self.responses_closing()),
        };
        let mut at = 0;
        let mut number = opening.len();
        let pieces = iter::from_fn(move || {
            let rest = self.text.get(at..).filter(|rest| !rest.is_empty())?;
            let piece = &rest[..piece_length(rest)];
            let part = if at == 0 { Part::First } else { Part::Next };
            let event = match self.api {
                Api::Chat => self.chat_event(&json!({ "content": piece }), None),
                Api::Responses => self.delta_event(number, piece),
            };
            at += piece.len();
            number += 1;
            Some((part, event))
        });
        let envelope = |event| (Part::Envelope, event);
        let opening = opening.into_iter().map(envelope);
        opening
            .chain(pieces)
            .chain(closing.into_iter().map(envelope))
    }

    fn finish_reason(&self) -> &'static str {
        if self.is_cut { "length" } else { "stop" }
    }

    fn usage(&self) -> Value {
        let output = u64::try_from(self.output_tokens).unwrap_or(u64::MAX);
        let total = self.input_tokens.saturating_add(output);
        let cached = json!({ "cached_tokens": 0 });
        let reasoning = json!({ "reasoning_tokens": 0 });
        match self.api {
            Api::Chat => json!({
                "prompt_tokens": self.input_tokens,
                "completion_tokens": output,
                "total_tokens": total,
                "prompt_tokens_details": cached,
                "completion_tokens_details": reasoning,
            }),
            Api::Responses => json!({
                "input_tokens": self.input_tokens,
                "input_tokens_details": cached,
                "output_tokens": output,
                "output_tokens_details": reasoning,
                "total_tokens": total,
            }),
        }
    }

    fn chat_opening(&self) -> Vec<Bytes> {
        let delta = json!({ "role": "assistant", "content": "", "refusal": null });
        vec![self.chat_event(&delta, None)]
    }

    fn chat_closing(&self) -> Vec<Bytes> {
        let mut events = vec![self.chat_event(&json!({}), Some(self.finish_reason()))];
        if self.include_usage {
            events.push(self.chat_chunk(&json!([]), &self.usage()));
        }
        events.push(Bytes::from_static(b"data: [DONE]\n\n"));
        events
    }

    fn chat_event(&self, delta: &Value, finish_reason: Option<&str>) -> Bytes {
        let choices = json!([{
            "index": 0,
            "delta": delta,
            "logprobs": null,
            "finish_reason": finish_reason,
        }]);
        self.chat_chunk(&choices, &Value::Null)
    }

    fn chat_chunk(&self, choices: &Value, usage: &Value) -> Bytes {
        let mut chunk = json!({
            "id": format!("chatcmpl-{}", self.id),
            "object": "chat.completion.chunk",
            "created": self.created,
            "model": MODEL,
            "choices": choices,
        });
        // Once asked for, every chunk has the field, null in all but the last.
        if self.include_usage {
            chunk["usage"] = usage.clone();
        }
        Bytes::from(format!("data: {chunk}\n\n"))
    }

    fn end_status(&self) -> &'static str {
        if self.is_cut {
            "incomplete"
        } else {
            "completed"
        }
    }

    fn response(&self, status: &str, output: &[Value]) -> Value {
        let has_ended = status != "in_progress";
        let cut = json!({ "reason": "max_output_tokens" });
        json!({
            "id": format!("resp_{}", self.id),
            "object": "response",
            "created_at": self.created,
            "status": status,
            "error": null,
            "incomplete_details": if status == "incomplete" { cut } else { Value::Null },
            "model": MODEL,
            "output": output,
            "usage": if has_ended { self.usage() } else { Value::Null },
        })
    }

    fn item(&self, status: &str) -> Value {
        let content = match status {
            "in_progress" => json!([]),
            _ => json!([text_part(&self.text)]),
        };
        json!({
            "id": self.item_id(),
            "type": "message",
            "status": status,
            "role": "assistant",
            "content": content,
        })
    }

    fn item_id(&self) -> String {
        format!("msg_{}", self.id)
    }

    fn responses_opening(&self) -> Vec<Bytes> {
        let begun = json!({ "response": self.response("in_progress", &[]) });
        let item = json!({ "output_index": 0, "item": self.item("in_progress") });
        let part = self.in_part(json!({ "part": text_part("") }));
        vec![
            typed_event("response.created", 0, begun.clone()),
            typed_event("response.in_progress", 1, begun),
            typed_event("response.output_item.added", 2, item),
            typed_event("response.content_part.added", 3, part),
        ]
    }

    fn responses_closing(&self) -> Vec<Bytes> {
        let status = self.end_status();
        let first = self.responses_opening().len() + self.output_tokens;
        let text = self.in_part(json!({ "text": self.text, "logprobs": [] }));
        let part = self.in_part(json!({ "part": text_part(&self.text) }));
        let item = json!({ "output_index": 0, "item": self.item(status) });
        let ended = json!({ "response": self.response(status, &[self.item(status)]) });
        let last = format!("response.{status}");
        vec![
            typed_event("response.output_text.done", first, text),
            typed_event("response.content_part.done", first + 1, part),
            typed_event("response.output_item.done", first + 2, item),
            typed_event(&last, first + 3, ended),
        ]
    }

    fn delta_event(&self, number: usize, piece: &str) -> Bytes {
        let fields = self.in_part(json!({ "delta": piece, "logprobs": [] }));
        typed_event("response.output_text.delta", number, fields)
    }

    /// Adds where the text part is: it is the first and only one.
    fn in_part(&self, mut fields: Value) -> Value {
        fields["item_id"] = json!(self.item_id());
        fields["output_index"] = json!(0);
        fields["content_index"] = json!(0);
        fields
    }
}

fn text_part(text: &str) -> Value {
    json!({ "type": "output_text", "text": text, "annotations": [], "logprobs": [] })
}

/// An event of the Responses API, which carries its type twice.
fn typed_event(kind: &str, number: usize, mut fields: Value) -> Bytes {
    fields["type"] = json!(kind);
    fields["sequence_number"] = json!(number);
    Bytes::from(format!("event: {kind}\ndata: {fields}\n\n"))
}

/// The length of the first piece of `rest`: blanks with the word after them, or
/// with one or two characters of a script that is written without blanks.
fn piece_length(rest: &str) -> usize {
    let mut length = 0;
    let mut letters = 0;
    for c in rest.chars() {
        let is_wide = c.len_utf8() > 2;
        let is_full = match letters {
            0 => false,
            _ if c.is_whitespace() || length >= MAX_PIECE => true,
            _ if is_wide => letters >= 2 && c.is_alphanumeric(),
            _ => false,
        };
        if is_full {
            break;
        }
        length += c.len_utf8();
        letters += usize::from(!c.is_whitespace());
    }
    length
}

/// The list of models.
pub(super) fn models() -> Value {
    json!({
        "object": "list",
        "data": [{ "id": MODEL, "object": "model", "created": 0, "owned_by": "gptpipe" }],
    })
}
