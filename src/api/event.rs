//! Server-sent events → deltas → a reply, in the two wire formats.
//!
//! * `/v1/chat/completions`: `OpenAI` API reference, "Chat completions", "Streaming";
//! * `/v1/responses`: `OpenAI` API reference, "Responses", "Streaming events".
//!
//! [`Decoder`] takes one event at a time and knows neither sockets nor time. It is lenient in what a field may be,
//! because servers differ, and strict in one thing: a reply is whole only when the server gave a reason for its
//! end that says so. `[DONE]` proves nothing: llama-cpp-python sends it after a reply that it broke off.

use std::borrow::Cow;

use serde_json::value::RawValue;

use crate::api::failure::{Failure, Kind};
use crate::api::fault;
use crate::api::mould::Mould;
use crate::api::reply::{Finish, Reply, Usage};
use crate::api::wire::{
    ChatEvent, Counts, Named, Part, Response, ResponsesEvent, Text, finish_of, is_error, join,
    parse_raw,
};

/// The most text that one reply may have, in bytes; memory must not be the server's choice.
const MAX_TEXT: usize = 64 << 20;

/// Which of the two wire formats is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Api {
    /// `/v1/chat/completions`
    Chat,
    /// `/v1/responses`
    Responses,
}

/// What proves that a reply is whole.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum End {
    /// A reason for the end.
    #[default]
    FinishReason,
    /// `[DONE]` as well, for a server that gives no reasons.
    Done,
}

/// What one event brought.
#[derive(Debug, PartialEq, Eq)]
pub enum Step<'a> {
    /// More text.
    Delta(&'a str),
    /// No text, but the server is alive: a role, reasoning, a count, half a character.
    Alive,
    /// Nothing that matters comes after this.
    End,
}

/// Puts a reply together, event by event.
#[derive(Debug)]
pub struct Decoder {
    api: Api,
    end: End,
    pub(super) reply: Reply,
    /// The first half of a UTF-16 pair whose second half may come with the next event.
    half: Option<u16>,
    refusal: String,
    /// The server's word for the end.
    pub(super) reason: Option<String>,
    has_tool_call: bool,
    pub(super) progress: Progress,
    /// That of the last event which brought nothing but text.
    mould: Mould,
}

/// How far a stream has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    Nothing,
    Begun,
    Over,
    /// Over, by `[DONE]`.
    Done,
}

impl Decoder {
    /// Begins a reply.
    #[must_use]
    pub fn new(api: Api, end: End) -> Self {
        Self {
            api,
            end,
            reply: Reply::default(),
            half: None,
            refusal: String::new(),
            reason: None,
            has_tool_call: false,
            progress: Progress::Nothing,
            mould: Mould::default(),
        }
    }

    /// Takes one event: its name, `message` or empty if it has none, and its data.
    ///
    /// # Errors
    /// When the event reports an error or cannot be read. What came before it is in the failure.
    pub fn event(&mut self, name: &str, data: &str) -> Result<Step<'_>, Failure> {
        if self.is_over() {
            return Ok(Step::End);
        }
        self.progress = Progress::Begun;
        let data = data.trim();
        if data == "[DONE]" {
            self.progress = Progress::Done;
            return Ok(Step::End);
        }
        if name == "error" {
            return Err(self.fail(fault::from_event(data)));
        }
        let start = self.reply.text.len();
        let taken = match self.api {
            Api::Chat => self.chat(data),
            Api::Responses => self.responses(name, data),
        };
        match taken {
            Ok(()) => {}
            // The reply is whole; half of a count or of `[DONE]` takes nothing from it.
            Err(Bad::Json(_)) if self.is_finished() => {}
            // A named event of neither format, such as a gateway's ping, need not be JSON.
            Err(Bad::Json(_))
                if data.is_empty() || !matches!(name, "" | "message") && !data.starts_with('{') => {
            }
            Err(Bad::Json(error)) => return Err(self.fail(unreadable(&error))),
            Err(Bad::Said(failure)) => return Err(self.fail(*failure)),
        }
        if self.reply.text.len() > MAX_TEXT {
            let mut failure = Failure::new(Kind::Malformed, "the reply does not end");
            failure.should_retry = Some(false);
            return Err(self.fail(failure));
        }
        Ok(match &self.reply.text[start..] {
            "" if self.is_over() => Step::End,
            "" => Step::Alive,
            text => Step::Delta(text),
        })
    }

    /// Whether the server has given a reason for the end: what may still come is a count, not text.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.reply.finish != Finish::Unknown
    }

    /// Takes the end of the body, or of what was read of it.
    ///
    /// # Errors
    /// When what came is not a whole reply. What came is in the failure.
    pub fn finish(self) -> Result<Reply, Failure> {
        let failure = match self.progress {
            Progress::Nothing => Failure::new(Kind::Empty, ""),
            Progress::Begun | Progress::Over => {
                Failure::new(Kind::Cut, "it ended without a finish reason")
            }
            Progress::Done => Failure::new(Kind::Cut, "[DONE] came without a finish reason"),
        };
        self.cut(failure)
    }

    /// Takes the end of the body by a failure of the connection or by a timeout; it does not matter once the
    /// reply was whole.
    ///
    /// # Errors
    /// As [`Decoder::finish`], with `failure` where the server had not given a reason for the end.
    pub fn cut(mut self, failure: Failure) -> Result<Reply, Failure> {
        if self.progress == Progress::Done
            && self.end == End::Done
            && self.reply.finish == Finish::Unknown
            && self.reason.is_none()
        {
            self.reply.finish = Finish::Done;
        }
        // Some servers report a refusal or a tool call and then end with `stop`.
        if !self.refusal.is_empty() {
            self.reply.finish = Finish::Refused;
        } else if self.has_tool_call && self.is_finished() {
            self.reply.finish = Finish::ToolCalls;
        }
        let failure = match self.reply.finish {
            Finish::Stop | Finish::Done => {
                self.end_half();
                return Ok(self.reply);
            }
            Finish::Length => Failure::new(Kind::Length, ""),
            Finish::Filtered => Failure::new(Kind::Filtered, ""),
            Finish::Refused => Failure::new(Kind::Refused, &self.refusal),
            Finish::ToolCalls => Failure::new(Kind::ToolCalls, ""),
            Finish::Unknown | Finish::Failed => match &self.reason {
                Some(reason) => Failure::new(Kind::UnknownFinish, &format!("`{reason}`")),
                None => failure,
            },
        };
        Err(self.fail(failure))
    }

    fn is_over(&self) -> bool {
        matches!(self.progress, Progress::Over | Progress::Done)
    }

    pub(super) fn fail(&mut self, failure: Failure) -> Failure {
        self.progress = Progress::Over;
        self.end_half();
        let partial = std::mem::take(&mut self.reply);
        if partial == Reply::default() {
            return failure;
        }
        failure.with_partial(partial)
    }

    pub(super) fn chat(&mut self, data: &str) -> Result<(), Bad> {
        if let Some(text) = self.mould.text(data) {
            join(&mut self.reply.text, &mut self.half, text.as_bytes());
            return Ok(());
        }
        let event: ChatEvent<'_> = serde_json::from_str(data)?;
        if is_error(event.error) {
            return Err(Bad::said(fault::from_event(data)));
        }
        if event.choices.is_none() {
            let named: Named<'_> = serde_json::from_str(data)?;
            if named.object.is("error") || named.kind.is("error") {
                return Err(Bad::said(fault::from_event(data)));
            }
        }
        if let Some(text) = event.only_text() {
            self.mould.take(data, text);
        }
        event.id.keep(&mut self.reply.id);
        event.model.keep(&mut self.reply.model);
        self.count(event.usage);
        for choice in event.choices.unwrap_or_default() {
            // With n > 1, which a profile's parameters may ask for, the first choice is the reply.
            if choice.index.unwrap_or(0) != 0 {
                continue;
            }
            if let Some(error) = choice.error.filter(|error| is_error(Some(error))) {
                return Err(Bad::said(fault::from_event(error.get())));
            }
            if let Some(message) = choice.delta.or(choice.message) {
                self.push(message.content);
                self.push_refusal(message.refusal);
                self.has_tool_call |= message.tool_calls.0 || message.function_call.0;
            }
            if let Some(reason) = choice.finish_reason.0.filter(|reason| !reason.is_empty()) {
                self.end_with(&reason)?;
            }
        }
        Ok(())
    }

    fn responses(&mut self, name: &str, data: &str) -> Result<(), Bad> {
        let event: ResponsesEvent<'_> = serde_json::from_str(data)?;
        // The name is repeated inside; some gateways leave out one of the two.
        let kind = event.kind.0.as_deref().unwrap_or(name);
        match kind {
            "response.output_text.delta" => self.push(parse_raw(event.delta)?),
            "response.refusal.delta" => self.push_refusal(parse_raw(event.delta)?),
            "response.refusal.done" if self.refusal.is_empty() => {
                self.push_refusal(parse_raw(event.refusal)?);
            }
            "response.completed"
            | "response.incomplete"
            | "response.failed"
            | "response.cancelled" => {
                let status = kind.rsplit('.').next().unwrap_or_default();
                self.progress = Progress::Over;
                match event.response {
                    Some(response) => self.response(response.get(), status)?,
                    None => return self.status(status, None, data),
                }
            }
            "response.created" => {
                if let Some(response) = parse_raw::<Response<'_>>(event.response)? {
                    response.id.keep(&mut self.reply.id);
                    response.model.keep(&mut self.reply.model);
                }
            }
            _ if kind == "error" || is_error(event.error) => {
                return Err(Bad::said(fault::from_event(data)));
            }
            _ if kind.starts_with("response.function_call_arguments.")
                || kind.starts_with("response.custom_tool_call_input.") =>
            {
                self.has_tool_call = true;
            }
            _ => {}
        }
        Ok(())
    }

    /// The response object, as it ends a stream or stands alone.
    pub(super) fn response(&mut self, data: &str, fallback: &str) -> Result<(), Bad> {
        let response: Response<'_> = serde_json::from_str(data)?;
        response.id.keep(&mut self.reply.id);
        response.model.keep(&mut self.reply.model);
        self.count(response.usage);
        let has_deltas = !self.reply.text.is_empty() || self.half.is_some();
        let has_refusal = !self.refusal.is_empty();
        for item in response.output.unwrap_or_default() {
            self.has_tool_call |= item.kind.is("function_call") || item.kind.is("custom_tool_call");
            if !item.kind.is("message") {
                continue;
            }
            for part in parse_raw::<Vec<Part<'_>>>(item.content)?.unwrap_or_default() {
                if !has_deltas {
                    self.push(part.text);
                }
                if !has_refusal {
                    self.push_refusal(part.refusal);
                }
            }
        }
        let status = response.status.0.unwrap_or(Cow::Borrowed(fallback));
        let reason = response.incomplete_details.map(|details| details.reason);
        self.status(&status, reason.and_then(|reason| reason.0).as_deref(), data)
    }

    fn status(&mut self, status: &str, incomplete: Option<&str>, data: &str) -> Result<(), Bad> {
        match status {
            "completed" => self.end_with("stop"),
            "incomplete" => self.end_with(incomplete.unwrap_or("incomplete")),
            "failed" => Err(Bad::said(fault::from_event(data))),
            "cancelled" => Err(Bad::said(Failure::new(
                Kind::EventError,
                "the server cancelled the reply",
            ))),
            _ => Ok(()),
        }
    }

    fn end_with(&mut self, reason: &str) -> Result<(), Bad> {
        if self.is_finished() || self.reason.is_some() {
            return Ok(());
        }
        self.reply.finish = finish_of(reason);
        match self.reply.finish {
            // Both are words of the server for its own troubles.
            Finish::Failed if reason == "insufficient_system_resource" => {
                Err(Bad::said(Failure::new(Kind::Overloaded, reason)))
            }
            Finish::Failed => {
                let message = format!("finish reason `{reason}`");
                Err(Bad::said(Failure::new(Kind::EventError, &message)))
            }
            Finish::Unknown => {
                self.reason = Some(reason.to_owned());
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// The last count is the whole one; servers that count in every event count upwards.
    fn count(&mut self, usage: Option<&RawValue>) {
        let Some(counts) = usage.and_then(|raw| serde_json::from_str::<Counts>(raw.get()).ok())
        else {
            return;
        };
        let details = counts.prompt_tokens_details.or(counts.input_tokens_details);
        let cached = details
            .and_then(|details| details.cached_tokens)
            .or(counts.prompt_cache_hit_tokens);
        self.reply.usage = Some(Usage {
            prompt_tokens: counts.prompt_tokens.or(counts.input_tokens).unwrap_or(0),
            completion_tokens: counts
                .completion_tokens
                .or(counts.output_tokens)
                .unwrap_or(0),
            cached_tokens: cached.unwrap_or(0),
        });
    }

    fn push(&mut self, text: Option<Text<'_>>) {
        if let Some(text) = text {
            join(&mut self.reply.text, &mut self.half, &text.0);
        }
    }

    fn push_refusal(&mut self, text: Option<Text<'_>>) {
        if let Some(text) = text {
            join(&mut self.refusal, &mut None, &text.0);
        }
    }

    fn end_half(&mut self) {
        if self.half.take().is_some() {
            self.reply.text.push(char::REPLACEMENT_CHARACTER);
        }
    }
}

/// Why an event was not taken.
pub(super) enum Bad {
    Json(serde_json::Error),
    /// Boxed, because every event returns this type.
    Said(Box<Failure>),
}

impl Bad {
    pub(super) fn said(failure: Failure) -> Self {
        Self::Said(Box::new(failure))
    }
}

impl From<serde_json::Error> for Bad {
    fn from(error: serde_json::Error) -> Self {
        Self::Json(error)
    }
}

/// JSON that stops in the middle was cut off; other JSON that cannot be read is somebody's mistake.
pub(super) fn unreadable(error: &serde_json::Error) -> Failure {
    let kind = if error.is_eof() {
        Kind::Cut
    } else {
        Kind::Malformed
    };
    Failure::new(kind, &error.to_string())
}
