//! The shapes of the JSON in events and plain responses, as far as they matter.
//!
//! This runs for every token, so nothing is built that is not used and strings are borrowed. And it meets every
//! server, so a field of an unexpected type costs that field and not the reply, wherever the field is not the
//! text itself.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use crate::api::reply::Finish;

#[derive(Deserialize)]
pub(super) struct ChatEvent<'a> {
    #[serde(borrow, default)]
    pub(super) id: Word<'a>,
    #[serde(borrow, default)]
    pub(super) model: Word<'a>,
    #[serde(borrow)]
    pub(super) choices: Option<Vec<Choice<'a>>>,
    #[serde(borrow)]
    pub(super) usage: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(super) error: Option<&'a RawValue>,
}

impl<'a> ChatEvent<'a> {
    /// The text of an event that brings nothing else but what each event of its stream repeats; none where it has
    /// escapes in it.
    pub(super) fn only_text(&self) -> Option<&'a [u8]> {
        let [choice] = self.choices.as_deref()? else {
            return None;
        };
        let message = choice.delta.as_ref()?;
        let text = message.content.as_ref()?;
        let is_all = choice.index.unwrap_or(0) == 0
            && choice.message.is_none()
            && choice.error.is_none()
            && choice.finish_reason.0.is_none()
            && message.refusal.is_none()
            && !message.tool_calls.0
            && !message.function_call.0
            && self.usage.is_none_or(|usage| usage.get() == "null")
            && self.error.is_none_or(|error| error.get() == "null");
        match text.0 {
            Cow::Borrowed(text) if is_all => Some(text),
            _ => None,
        }
    }
}

/// An event without choices: vLLM's and Mistral's errors are not wrapped, but name themselves.
#[derive(Deserialize)]
pub(super) struct Named<'a> {
    #[serde(borrow, default)]
    pub(super) object: Word<'a>,
    #[serde(borrow, default, rename = "type")]
    pub(super) kind: Word<'a>,
}

#[derive(Deserialize)]
pub(super) struct Choice<'a> {
    pub(super) index: Option<u64>,
    #[serde(borrow)]
    pub(super) delta: Option<Message<'a>>,
    /// In place of `delta` where nothing is streamed.
    #[serde(borrow)]
    pub(super) message: Option<Message<'a>>,
    #[serde(borrow, default)]
    pub(super) finish_reason: Word<'a>,
    #[serde(borrow)]
    pub(super) error: Option<&'a RawValue>,
}

/// Reasoning (`reasoning_content`, `reasoning`, `thinking`) is passed over, as any other field.
#[derive(Deserialize)]
pub(super) struct Message<'a> {
    #[serde(borrow)]
    pub(super) content: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) refusal: Option<Text<'a>>,
    #[serde(default)]
    pub(super) tool_calls: Filled,
    #[serde(default)]
    pub(super) function_call: Filled,
}

#[derive(Deserialize)]
pub(super) struct ResponsesEvent<'a> {
    #[serde(borrow, default, rename = "type")]
    pub(super) kind: Word<'a>,
    #[serde(borrow)]
    pub(super) delta: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(super) refusal: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(super) response: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(super) error: Option<&'a RawValue>,
}

#[derive(Deserialize)]
pub(super) struct Response<'a> {
    #[serde(borrow, default)]
    pub(super) id: Word<'a>,
    #[serde(borrow, default)]
    pub(super) model: Word<'a>,
    #[serde(borrow, default)]
    pub(super) status: Word<'a>,
    #[serde(borrow)]
    pub(super) incomplete_details: Option<Incomplete<'a>>,
    #[serde(borrow)]
    pub(super) usage: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(super) output: Option<Vec<Item<'a>>>,
}

#[derive(Deserialize)]
pub(super) struct Incomplete<'a> {
    #[serde(borrow, default)]
    pub(super) reason: Word<'a>,
}

#[derive(Deserialize)]
pub(super) struct Item<'a> {
    #[serde(borrow, default, rename = "type")]
    pub(super) kind: Word<'a>,
    #[serde(borrow)]
    pub(super) content: Option<&'a RawValue>,
}

/// A part of a message: Mistral's `text` beside `thinking` and `reference`, the Responses API's `output_text`.
#[derive(Deserialize)]
pub(super) struct Part<'a> {
    #[serde(borrow)]
    pub(super) text: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) refusal: Option<Text<'a>>,
}

#[derive(Deserialize)]
pub(super) struct Counts {
    pub(super) prompt_tokens: Option<u64>,
    pub(super) completion_tokens: Option<u64>,
    pub(super) prompt_tokens_details: Option<Cached>,
    pub(super) input_tokens: Option<u64>,
    pub(super) output_tokens: Option<u64>,
    pub(super) input_tokens_details: Option<Cached>,
    /// `DeepSeek`'s name for it.
    pub(super) prompt_cache_hit_tokens: Option<u64>,
}

#[derive(Deserialize)]
pub(super) struct Cached {
    pub(super) cached_tokens: Option<u64>,
}

/// A string of the reply as WTF-8. Asked for bytes, `serde_json` lets pass the lone surrogate escapes for which
/// it refuses a `String`, and still borrows where nothing is escaped.
pub(super) struct Text<'a>(pub(super) Cow<'a, [u8]>);

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_bytes(TextVisitor)
    }
}

struct TextVisitor;

impl<'de> Visitor<'de> for TextVisitor {
    type Value = Text<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string or a list of parts")
    }

    fn visit_borrowed_bytes<E>(self, bytes: &'de [u8]) -> Result<Self::Value, E> {
        Ok(Text(Cow::Borrowed(bytes)))
    }

    fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Self::Value, E> {
        Ok(Text(Cow::Owned(bytes.to_vec())))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        let mut text = Vec::new();
        while let Some(part) = list.next_element::<Part<'de>>()? {
            text.extend_from_slice(&part.text.unwrap_or(Text(Cow::Borrowed(b""))).0);
        }
        Ok(Text(Cow::Owned(text)))
    }
}

/// A short string; anything else in its place counts as absent, except that a number is as good as its digits.
#[derive(Default)]
pub(super) struct Word<'a>(pub(super) Option<Cow<'a, str>>);

impl Word<'_> {
    pub(super) fn is(&self, word: &str) -> bool {
        self.0.as_deref() == Some(word)
    }

    pub(super) fn keep(self, place: &mut Option<String>) {
        if place.is_none() {
            *place = self.0.filter(|word| !word.is_empty()).map(Cow::into_owned);
        }
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Word<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(WordVisitor)
    }
}

struct WordVisitor;

impl<'de> Visitor<'de> for WordVisitor {
    type Value = Word<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(Word(Some(Cow::Borrowed(text))))
    }

    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Word(Some(Cow::Owned(text.to_owned()))))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Self::Value, E> {
        Ok(Word(Some(Cow::Owned(number.to_string()))))
    }

    fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> {
        Ok(Word(None))
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
        Ok(Word(None))
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
        Ok(Word(None))
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(Word(None))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Word(None))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Word(None))
    }
}

/// Whether there is something: many servers send `null` or an empty list where nothing is called.
#[derive(Default)]
pub(super) struct Filled(pub(super) bool);

impl<'de> Deserialize<'de> for Filled {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw = <&RawValue>::deserialize(deserializer)?.get();
        let inside = raw.trim_start_matches(['[', '{']).trim_start();
        Ok(Self(
            raw != "null" && !inside.is_empty() && !inside.starts_with([']', '}']),
        ))
    }
}

/// Some servers fill in an empty `error` where there is none.
pub(super) fn is_error(error: Option<&RawValue>) -> bool {
    error.is_some_and(|raw| !matches!(raw.get(), "null" | "false" | "\"\"" | "{}"))
}

pub(super) fn parse_raw<'a, T: Deserialize<'a>>(
    raw: Option<&'a RawValue>,
) -> Result<Option<T>, serde_json::Error> {
    match raw {
        Some(raw) => serde_json::from_str(raw.get()),
        None => Ok(None),
    }
}

/// Appends a piece of text in which UTF-16 surrogates may stand alone, as servers leave them that cut their text
/// by UTF-16 units: two halves that meet, also over two pieces, become one character, any other U+FFFD.
pub(super) fn join(text: &mut String, half: &mut Option<u16>, mut piece: &[u8]) {
    while !piece.is_empty() {
        let (good, bad) = match std::str::from_utf8(piece) {
            Ok(good) => (good, &b""[..]),
            Err(error) => {
                let (good, bad) = piece.split_at(error.valid_up_to());
                (std::str::from_utf8(good).unwrap_or_default(), bad)
            }
        };
        if !good.is_empty() {
            if half.take().is_some() {
                text.push(char::REPLACEMENT_CHARACTER);
            }
            text.push_str(good);
        }
        piece = match *bad {
            [] => bad,
            // WTF-8 writes a surrogate as UTF-8 would if it were a character.
            [0xED, b @ 0xA0..=0xBF, c, ref rest @ ..] => {
                let unit = 0xD000 | u16::from(b & 0x3F) << 6 | u16::from(c & 0x3F);
                match (half.take(), unit) {
                    (first, 0xD800..=0xDBFF) => {
                        if first.is_some() {
                            text.push(char::REPLACEMENT_CHARACTER);
                        }
                        *half = Some(unit);
                    }
                    (Some(first), _) => text.extend(char::decode_utf16([first, unit]).flatten()),
                    (None, _) => text.push(char::REPLACEMENT_CHARACTER),
                }
                rest
            }
            [_, ref rest @ ..] => {
                text.push(char::REPLACEMENT_CHARACTER);
                rest
            }
        };
    }
}

/// What a server's word for the end means.
///
/// The words are of `OpenAI`; Anthropic (`end_turn` …) and Gemini (`MAX_TOKENS` …), whose own words come through
/// some gateways; Mistral (`model_length`), `DeepSeek` (`insufficient_system_resource`), Zhipu (`sensitive`,
/// `network_error`), `OpenRouter` (`error`), vLLM and `SGLang` (`abort`), TGI (`eos_token`).
pub(super) fn finish_of(word: &str) -> Finish {
    match word.to_ascii_lowercase().as_str() {
        "stop" | "end_turn" | "stop_sequence" | "eos" | "eos_token" | "complete" | "completed" => {
            Finish::Stop
        }
        "length"
        | "max_tokens"
        | "max_output_tokens"
        | "model_length"
        | "model_context_window_exceeded" => Finish::Length,
        "content_filter"
        | "content_filtered"
        | "safety"
        | "recitation"
        | "blocklist"
        | "prohibited_content"
        | "spii"
        | "sensitive"
        | "guardrail_intervened" => Finish::Filtered,
        "refusal" => Finish::Refused,
        "tool_calls" | "tool_call" | "tool_use" | "function_call" => Finish::ToolCalls,
        "error" | "abort" | "network_error" | "insufficient_system_resource" => Finish::Failed,
        _ => Finish::Unknown,
    }
}
