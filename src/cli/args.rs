//! The one flag table.
//!
//! argh declares every option here, once; `--help`, the man page, the
//! completions and the README are renderings of it. The values are parsed into
//! the small value types of the rooms that use them; nothing is looked up.

use std::num::{NonZeroU32, NonZeroUsize};
use std::time::Duration;

use argh::{ArgsInfo, FromArgs};
use serde_json::value::RawValue;

use crate::api::event::Api;
use crate::api::request::Param;
use crate::input::chunk::By;
use crate::limit::concurrency::Jobs;
use crate::limit::rate::{Rate, parse_rate};
use crate::output::format::{Format, Join};
use crate::pipeline::reorder::OnError;
use crate::report::progress::ProgressMode;

/// Put a language model into a pipeline: text in, replies out, in order.
#[derive(ArgsInfo, Debug, FromArgs)]
#[argh(name = "gptpipe", help_triggers("-h", "--help"))]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of its own")]
pub struct Cli {
    /// read the prompt from FILE; then every operand is a file
    #[argh(option, short = 'f', arg_name = "FILE")]
    pub prompt_file: Option<String>,

    /// read no input: send the prompt alone
    #[argh(switch, short = 'n')]
    pub null_input: bool,

    /// replace the framing of the system message; '' for none
    #[argh(option, short = 's', arg_name = "TEXT")]
    pub system: Option<String>,

    /// model to ask (the profile's)
    #[argh(option, short = 'm', arg_name = "NAME")]
    pub model: Option<String>,

    /// provider, or a profile of the configuration file (openai)
    #[argh(option, short = 'P', arg_name = "NAME")]
    pub profile: Option<String>,

    /// address of the API, up to and with /v1 (the profile's)
    #[argh(option, arg_name = "URL")]
    pub base_url: Option<String>,

    /// kind of API: chat or responses (the profile's)
    #[argh(option, arg_name = "KIND", from_str_fn(parse_api))]
    pub api: Option<Api>,

    /// further field, such as temperature=0; repeatable
    #[argh(option, arg_name = "NAME=JSON", from_str_fn(parse_param))]
    pub param: Vec<Param>,

    /// upper bound of a reply, in tokens (the server's)
    #[argh(option, arg_name = "N", from_str_fn(parse_count_u32))]
    pub max_output_tokens: Option<NonZeroU32>,

    /// upper bound of a chunk, in tokens (2000)
    #[argh(option, short = 'c', arg_name = "N", from_str_fn(parse_count))]
    pub chunk_tokens: Option<NonZeroUsize>,

    /// where to cut: sentence, paragraph, line or file (sentence)
    #[argh(option, short = 'b', arg_name = "UNIT", from_str_fn(parse_by))]
    pub by: Option<By>,

    /// show the model up to N tokens of what stands before (0)
    #[argh(option, arg_name = "N", from_str_fn(parse_whole))]
    pub context: Option<usize>,

    /// send an unfinished chunk when input pauses so long (off)
    #[argh(option, arg_name = "DUR", from_str_fn(parse_duration))]
    pub flush_after: Option<Duration>,

    /// requests in flight at most, or auto (8)
    #[argh(option, short = 'j', arg_name = "N", from_str_fn(parse_jobs))]
    pub jobs: Option<Jobs>,

    /// give a server up after so long without a byte (120s)
    #[argh(option, arg_name = "DUR", from_str_fn(parse_duration))]
    pub timeout: Option<Duration>,

    /// limit, such as 5/s or 100/m, shared by all your processes
    #[argh(option, short = 'r', arg_name = "RATE", from_str_fn(parse_rate))]
    pub rate: Option<Rate>,

    /// limit of tokens, such as 90000/m, shared the same way
    #[argh(option, arg_name = "RATE", from_str_fn(parse_rate))]
    pub token_rate: Option<Rate>,

    /// ask again at most so often when a request fails (5)
    #[argh(option, arg_name = "N", from_str_fn(parse_retries))]
    pub retries: Option<u32>,

    /// when a chunk failed for good: stop, skip or keep (stop)
    #[argh(option, arg_name = "WHAT", from_str_fn(parse_on_error))]
    pub on_error: Option<OnError>,

    /// neither use remembered replies nor remember any
    #[argh(switch)]
    pub no_cache: bool,

    /// ask anew, and remember the replies
    #[argh(switch)]
    pub refresh: bool,

    /// send nothing: only remembered replies
    #[argh(switch)]
    pub cache_only: bool,

    /// use no reply that is older (24h)
    #[argh(option, arg_name = "DUR", from_str_fn(parse_duration))]
    pub cache_ttl: Option<Duration>,

    /// remember in FILE, or only during the run (:memory:)
    #[argh(option, arg_name = "FILE")]
    pub cache: Option<String>,

    /// merge the replies by PROMPT, level by level, into one
    #[argh(option, short = 'R', arg_name = "PROMPT")]
    pub reduce: Option<String>,

    /// write replies as text, or jsonl: one object a chunk (text)
    #[argh(option, arg_name = "FORMAT", from_str_fn(parse_format))]
    pub format: Option<Format>,

    /// replies have to be JSON that follows this JSON Schema
    #[argh(option, arg_name = "FILE")]
    pub schema: Option<String>,

    /// keep only what is inside a reply's code fence
    #[argh(switch)]
    pub unfence: bool,

    /// by the provider's Batch API: half the price, within a day
    #[argh(switch)]
    pub batch: bool,

    /// replace each FILE by its result, once all of it succeeded
    #[argh(switch, short = 'i')]
    pub in_place: bool,

    /// keep what was replaced, with SUFFIX behind its name
    #[argh(option, arg_name = "SUFFIX")]
    pub backup: Option<String>,

    /// print what would be sent, and send nothing
    #[argh(switch)]
    pub dry_run: bool,

    /// send nothing more once that may cost more than USD
    #[argh(option, arg_name = "USD", from_str_fn(parse_dollars))]
    pub max_cost: Option<i64>,

    /// send nothing more once that may use more tokens than N
    #[argh(option, arg_name = "N", from_str_fn(parse_tokens))]
    pub max_tokens: Option<u64>,

    /// add a line of JSON for each request to FILE, without text
    #[argh(option, arg_name = "FILE")]
    pub log: Option<String>,

    /// write the totals to FILE at the end, for Prometheus
    #[argh(option, arg_name = "FILE")]
    pub metrics: Option<String>,

    /// put between replies: source, line or blank (source)
    #[argh(option, arg_name = "WHAT", from_str_fn(parse_join))]
    pub join: Option<Join>,

    /// stream the next reply as it arrives (on a terminal)
    #[argh(switch)]
    pub live: bool,

    /// write only whole replies (elsewhere)
    #[argh(switch)]
    pub whole: bool,

    /// no warnings and no progress
    #[argh(switch, short = 'q')]
    pub quiet: bool,

    /// say what is done, a line for each request
    #[argh(switch, short = 'v')]
    pub verbose: bool,

    /// show progress: auto, always or never (auto)
    #[argh(option, arg_name = "WHEN", from_str_fn(parse_progress))]
    pub progress: Option<ProgressMode>,

    /// try it without a key: a small program summarizes
    #[argh(switch)]
    pub demo: bool,

    /// with setup: store the key without asking the server
    #[argh(switch)]
    pub no_check: bool,

    /// with login: give the login back
    #[argh(switch)]
    pub revoke: bool,

    /// print the version
    #[argh(switch, short = 'V')]
    pub version: bool,
}

/// Pairs of switches of which the later one wins.
pub const OPPOSITES: [[&str; 2]; 2] = [["--live", "--whole"], ["--quiet", "--verbose"]];

/// The longest time that an option takes: past it, clocks overflow.
const MAX_DURATION: Duration = Duration::from_hours(365 * 24);

/// Reads one of a closed set of words.
pub(super) fn parse_word<T: Copy>(value: &str, words: &[(&str, T)]) -> Result<T, String> {
    words
        .iter()
        .find(|(word, _)| *word == value)
        .map(|(_, meaning)| *meaning)
        .ok_or_else(|| {
            let known: Vec<String> = words.iter().map(|(word, _)| format!("`{word}`")).collect();
            let (last, rest) = known
                .split_last()
                .map_or(("", &[][..]), |(l, r)| (l.as_str(), r));
            format!("takes {} or {last}", rest.join(", "))
        })
}

/// Reads `--by`.
///
/// # Errors
/// The words that it takes.
pub fn parse_by(value: &str) -> Result<By, String> {
    parse_word(
        value,
        &[
            ("sentence", By::Sentence),
            ("paragraph", By::Paragraph),
            ("line", By::Line),
            ("file", By::File),
        ],
    )
}

/// Reads `--api`.
///
/// # Errors
/// The words that it takes.
pub fn parse_api(value: &str) -> Result<Api, String> {
    parse_word(value, &[("chat", Api::Chat), ("responses", Api::Responses)])
}

/// Reads `--format`.
///
/// # Errors
/// The words that it takes.
pub fn parse_format(value: &str) -> Result<Format, String> {
    parse_word(value, &[("text", Format::Text), ("jsonl", Format::Jsonl)])
}

/// Reads `--join`.
///
/// # Errors
/// The words that it takes.
pub fn parse_join(value: &str) -> Result<Join, String> {
    parse_word(
        value,
        &[
            ("source", Join::Source),
            ("line", Join::Line),
            ("blank", Join::Blank),
        ],
    )
}

/// Reads `--progress`.
///
/// # Errors
/// The words that it takes.
pub fn parse_progress(value: &str) -> Result<ProgressMode, String> {
    parse_word(
        value,
        &[
            ("auto", ProgressMode::Auto),
            ("always", ProgressMode::Always),
            ("never", ProgressMode::Never),
        ],
    )
}

/// Reads `--on-error`.
///
/// # Errors
/// The words that it takes.
pub fn parse_on_error(value: &str) -> Result<OnError, String> {
    parse_word(
        value,
        &[
            ("stop", OnError::Stop),
            ("skip", OnError::Skip),
            ("keep", OnError::Keep),
        ],
    )
}

/// Reads `--jobs`.
///
/// # Errors
/// What it takes.
pub fn parse_jobs(value: &str) -> Result<Jobs, String> {
    match value.parse() {
        _ if value == "auto" => Ok(Jobs::Auto),
        Ok(jobs) if jobs > 0 => Ok(Jobs::Most(jobs)),
        _ => Err("takes a whole number from 1, or `auto`".to_owned()),
    }
}

fn parse_retries(value: &str) -> Result<u32, String> {
    value
        .parse()
        .map_err(|_| "takes a whole number, 0 for none".to_owned())
}

/// Reads a size: `500MB`, `1GiB`, a bare number is bytes.
///
/// # Errors
/// What a size looks like.
pub fn parse_size(value: &str) -> Result<u64, String> {
    let end = value
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(value.len());
    let (number, unit) = value.split_at(end);
    let factor: Option<u64> = match unit.trim() {
        "" | "B" => Some(1),
        "K" | "KiB" => Some(1 << 10),
        "M" | "MiB" => Some(1 << 20),
        "G" | "GiB" => Some(1 << 30),
        "kB" | "KB" => Some(1_000),
        "MB" => Some(1_000_000),
        "GB" => Some(1_000_000_000),
        _ => None,
    };
    number
        .parse::<u64>()
        .ok()
        .zip(factor)
        .and_then(|(number, factor)| number.checked_mul(factor))
        .ok_or_else(|| "takes a size with its unit, such as 500MB or 2GiB".to_owned())
}

/// Reads US dollars, as billionths of one.
///
/// # Errors
/// What they look like.
pub fn parse_dollars(value: &str) -> Result<i64, String> {
    let wrong = || "takes US dollars, such as 0.50".to_owned();
    let dollars: f64 = value
        .strip_prefix('$')
        .unwrap_or(value)
        .parse()
        .map_err(|_| wrong())?;
    if !(1e-9..=1e9).contains(&dollars) {
        return Err(wrong());
    }
    #[expect(clippy::cast_possible_truncation, reason = "within the bounds")]
    let billionths = (dollars * 1e9).round() as i64;
    Ok(billionths)
}

fn parse_tokens(value: &str) -> Result<u64, String> {
    match value.parse() {
        Ok(tokens) if tokens > 0 => Ok(tokens),
        _ => Err("takes a whole number from 1".to_owned()),
    }
}

fn parse_whole(value: &str) -> Result<usize, String> {
    value
        .parse()
        .map_err(|_| "takes a whole number, such as 200".to_owned())
}

fn parse_count(value: &str) -> Result<NonZeroUsize, String> {
    value
        .parse()
        .map_err(|_| "takes a whole number from 1".to_owned())
}

fn parse_count_u32(value: &str) -> Result<NonZeroU32, String> {
    value
        .parse()
        .map_err(|_| "takes a whole number from 1".to_owned())
}

/// Reads a duration: `90s`, `5m`, `24h`, `7d`; a bare number is refused,
/// because half of the readers would take it for milliseconds.
///
/// # Errors
/// What a duration looks like.
pub fn parse_duration(value: &str) -> Result<Duration, String> {
    let duration = humantime::parse_duration(value)
        .map_err(|_| "takes a time with its unit, such as 500ms, 90s, 5m or 24h".to_owned())?;
    if duration.is_zero() || duration > MAX_DURATION {
        return Err("takes a time from 1ms to 365d".to_owned());
    }
    Ok(duration)
}

/// Reads `--param NAME=JSON`. A bare word is taken as a string, since shells
/// eat the quotes that JSON wants; anything else has to be JSON.
///
/// # Errors
/// What is not a name or not JSON.
pub fn parse_param(value: &str) -> Result<Param, String> {
    let Some((name, json)) = value.split_once('=') else {
        return Err("takes NAME=JSON, such as temperature=0".to_owned());
    };
    if name.is_empty() {
        return Err("takes NAME=JSON; the name is missing".to_owned());
    }
    if let Ok(raw) = serde_json::from_str::<Box<RawValue>>(json) {
        return Ok(Param {
            name: name.to_owned(),
            json: raw.get().to_owned(),
        });
    }
    let is_word = json.starts_with(|c: char| c.is_ascii_alphabetic())
        && json
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.'));
    if !is_word {
        return Err(format!(
            "`{json}` is not JSON; a string needs its quotes, as in {name}='\"text\"'"
        ));
    }
    Ok(Param {
        name: name.to_owned(),
        json: format!("\"{json}\""),
    })
}
