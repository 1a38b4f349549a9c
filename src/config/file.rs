//! The configuration file, `$XDG_CONFIG_HOME/gptpipe/config.toml`.
//!
//! Its keys are long options (those that say something about one run alone are left out) and, below
//! `[profiles.NAME]`, what a profile is made of. A wrong line is an error that names file, line and key; nothing
//! in it is passed over, because a mistyped limit would not limit.

use std::collections::BTreeMap;
use std::io;
use std::num::{NonZeroU32, NonZeroUsize};
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Deserializer, de};

use crate::api::batch::{BOUNDS, Bounds};
use crate::api::client::Auth;
use crate::api::event::{Api, End};
use crate::api::request::{Param, RESERVED, SchemaMode};
use crate::cli::args::{
    parse_api, parse_by, parse_duration, parse_jobs, parse_join, parse_on_error, parse_progress,
    parse_size,
};
#[cfg(feature = "oauth")]
use crate::config::oauth::OauthTable;
use crate::config::spending::{BudgetTable, LedgerTable, PriceTable};
use crate::config::wrong::{SECRET, WRITTEN, wrong_line};
use crate::error::{Error, reason};
use crate::input::chunk::By;
use crate::input::token::Encoding;
use crate::limit::concurrency::Jobs;
use crate::limit::rate::{Rate, parse_rate};
use crate::output::format::Join;
use crate::pipeline::reorder::OnError;
use crate::report::progress::ProgressMode;
use crate::secret::redact::{SHORTEST, Words, looks_secret, redact};

/// The headers whose value is a key.
const SECRET_HEADERS: [&str; 6] = [
    "authorization",
    "proxy-authorization",
    "api-key",
    "x-api-key",
    "x-goog-api-key",
    "cookie",
];

/// The file's contents.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct File {
    /// The profile that is used unless another is named.
    pub profile: Option<String>,
    /// The model, whatever the profile.
    pub model: Option<String>,
    /// The framing of the system message.
    pub system: Option<String>,
    /// Upper bound of a reply, in tokens.
    pub max_output_tokens: Option<NonZeroU32>,
    /// Upper bound of a chunk, in tokens.
    pub chunk_tokens: Option<NonZeroUsize>,
    /// Where to cut.
    #[serde(default, deserialize_with = "by")]
    pub by: Option<By>,
    /// Tokens of the text before a chunk that are shown with it.
    pub context: Option<usize>,
    /// When to send an unfinished chunk.
    #[serde(default, deserialize_with = "duration")]
    pub flush_after: Option<Duration>,
    /// Requests in flight at most.
    #[serde(default, deserialize_with = "jobs")]
    pub jobs: Option<Jobs>,
    /// When a silent server is given up.
    #[serde(default, deserialize_with = "duration")]
    pub timeout: Option<Duration>,
    /// Limit of requests.
    #[serde(default, deserialize_with = "rate")]
    pub rate: Option<Rate>,
    /// Limit of tokens.
    #[serde(default, deserialize_with = "rate")]
    pub token_rate: Option<Rate>,
    /// Attempts after the first.
    pub retries: Option<u32>,
    /// What becomes of a run when a chunk failed for good.
    #[serde(default, deserialize_with = "on_error")]
    pub on_error: Option<OnError>,
    /// What is remembered, and where.
    #[serde(default)]
    pub cache: CacheTable,
    /// Whether requests are recorded, and for how long.
    #[serde(default)]
    pub ledger: LedgerTable,
    /// What may be spent.
    #[serde(default)]
    pub budget: BudgetTable,
    /// What models cost, by their names.
    #[serde(default)]
    pub prices: BTreeMap<String, PriceTable>,
    /// What stands between replies.
    #[serde(default, deserialize_with = "join")]
    pub join: Option<Join>,
    /// Whether to show progress.
    #[serde(default, deserialize_with = "progress")]
    pub progress: Option<ProgressMode>,
    /// What there is to say about keys.
    #[serde(default)]
    pub key: KeyTable,
    /// The user's profiles, and changes to built-in ones.
    #[serde(default)]
    pub profiles: BTreeMap<String, ProfileTable>,
}

/// What there is to say about keys.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct KeyTable {
    /// How old a key may become until the user is reminded to replace it.
    #[serde(default, deserialize_with = "duration", alias = "max_age")]
    pub max_age: Option<Duration>,
}

/// What is remembered, and where.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct CacheTable {
    /// Whether replies are remembered at all.
    pub enabled: Option<bool>,
    /// The file; `:memory:` for none.
    pub file: Option<String>,
    /// How old a reply may be.
    #[serde(default, deserialize_with = "duration")]
    pub ttl: Option<Duration>,
    /// How large the file may become, in bytes.
    #[serde(default, deserialize_with = "size", alias = "max_size")]
    pub max_size: Option<u64>,
}

/// One profile of the file: what it says replaces what is built in.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct ProfileTable {
    /// Address of the API, up to and with `/v1`.
    pub base_url: Option<String>,
    /// Kind of API.
    #[serde(default, deserialize_with = "api")]
    pub api: Option<Api>,
    /// The model.
    pub model: Option<String>,
    /// The environment variable that has the key.
    #[serde(default, deserialize_with = "variable")]
    pub key_env: Option<String>,
    /// The command that writes the key.
    pub key_command: Option<String>,
    /// Whether the key may travel unencrypted to another machine.
    pub allow_http: Option<bool>,
    /// The header that carries the key.
    #[serde(default, deserialize_with = "auth")]
    pub auth: Option<Auth>,
    /// The vocabulary that is nearest to the model's.
    #[serde(default, deserialize_with = "tokenizer")]
    pub tokenizer: Option<Encoding>,
    /// The field that bounds a reply, `max_tokens` or `max_completion_tokens`.
    pub token_field: Option<String>,
    /// What proves the end of a stream.
    #[serde(default, deserialize_with = "end")]
    pub end: Option<End>,
    /// Whether to ask for token counts at the end of a stream.
    pub usage: Option<bool>,
    /// How the server is asked to keep to a schema.
    #[serde(default, deserialize_with = "schema")]
    pub schema: Option<SchemaMode>,
    /// What a file of the server's Batch API may hold; none where it has no such API.
    #[serde(default, deserialize_with = "batch")]
    pub batch: Option<Option<Bounds>>,
    /// The header that names a request over all its attempts, where the server takes one.
    pub idempotency_header: Option<String>,
    /// Further headers.
    #[serde(default, deserialize_with = "headers")]
    pub headers: BTreeMap<String, String>,
    /// Further fields of the request.
    #[serde(default, deserialize_with = "params")]
    pub params: Vec<Param>,
    /// Tokens in place of a key.
    #[cfg(feature = "oauth")]
    pub oauth: Option<OauthTable>,
    /// Tokens in place of a key, which this program was built without.
    #[cfg(not(feature = "oauth"))]
    #[serde(default, deserialize_with = "not_built")]
    pub oauth: (),
}

/// Reads the file; a missing one is an empty one.
///
/// # Errors
/// [`Error::Usage`] with file, line and key of the first wrong line.
pub fn read(path: &Path) -> Result<File, Error> {
    match std::fs::read_to_string(path) {
        Ok(text) => parse(&text, &path.display().to_string()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(File::default()),
        // A path through something that is no folder is as absent as one that leads nowhere.
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => Ok(File::default()),
        Err(error) => Err(Error::usage(format!(
            "cannot read `{}`: {}",
            path.display(),
            reason(&error)
        ))),
    }
}

/// Reads the file's text; `name` is what messages call it.
pub(super) fn parse(text: &str, name: &str) -> Result<File, Error> {
    toml::from_str(text).map_err(|error| wrong_line(text, name, &error))
}

/// Reads a string by one of the command line's own parsers.
fn word<'de, D: Deserializer<'de>, T>(
    deserializer: D,
    parse: impl FnOnce(&str) -> Result<T, String>,
) -> Result<Option<T>, D::Error> {
    let text = String::deserialize(deserializer)?;
    parse(&text).map(Some).map_err(de::Error::custom)
}

fn by<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<By>, D::Error> {
    word(deserializer, parse_by)
}

fn api<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Api>, D::Error> {
    word(deserializer, parse_api)
}

/// A number, or the word `auto`.
fn jobs<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Jobs>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Typed {
        Number(i64),
        Word(String),
    }
    let text = match Typed::deserialize(deserializer) {
        Ok(Typed::Number(number)) => number.to_string(),
        Ok(Typed::Word(word)) => word,
        Err(_) => String::new(),
    };
    parse_jobs(&text).map(Some).map_err(de::Error::custom)
}

fn on_error<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<OnError>, D::Error> {
    word(deserializer, parse_on_error)
}

fn rate<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Rate>, D::Error> {
    word(deserializer, parse_rate)
}

fn size<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    word(deserializer, parse_size)
}

fn join<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Join>, D::Error> {
    word(deserializer, parse_join)
}

fn progress<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<ProgressMode>, D::Error> {
    word(deserializer, parse_progress)
}

fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    word(deserializer, parse_duration)
}

fn auth<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Auth>, D::Error> {
    word(deserializer, |text| match text {
        "bearer" => Ok(Auth::Bearer),
        "api-key" => Ok(Auth::ApiKey),
        "x-api-key" => Ok(Auth::XApiKey),
        _ => Err("takes `bearer`, `api-key` or `x-api-key`".to_owned()),
    })
}

/// The name of a variable, and not the key itself.
fn variable<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    let name = String::deserialize(deserializer)?;
    let is_name = !name.starts_with(|c: char| c.is_ascii_digit())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    if !is_name || name.is_empty() || looks_secret(&name, Words::Own) {
        return Err(de::Error::custom(format!(
            "takes the name of a variable, and this may be {SECRET}"
        )));
    }
    Ok(Some(name))
}

/// Headers without a key in them.
fn headers<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<BTreeMap<String, String>, D::Error> {
    let headers = BTreeMap::<String, String>::deserialize(deserializer)?;
    for (name, value) in &headers {
        let is_secret = SECRET_HEADERS.contains(&name.to_ascii_lowercase().as_str())
            || redact(value, Words::Own) != *value;
        if is_secret {
            return Err(de::Error::custom(format!("the header {name} has {SECRET}")));
        }
    }
    Ok(headers)
}

fn tokenizer<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Encoding>, D::Error> {
    word(deserializer, |text| match text {
        "o200k" => Ok(Encoding::O200k),
        "cl100k" => Ok(Encoding::Cl100k),
        _ => Err("takes `o200k` or `cl100k`".to_owned()),
    })
}

fn end<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<End>, D::Error> {
    word(deserializer, |text| match text {
        "finish_reason" => Ok(End::FinishReason),
        "done" => Ok(End::Done),
        _ => Err("takes `finish_reason` or `done`".to_owned()),
    })
}

fn schema<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<SchemaMode>, D::Error> {
    word(deserializer, |text| match text {
        "native" => Ok(SchemaMode::Native),
        "object" => Ok(SchemaMode::Object),
        "prompt" => Ok(SchemaMode::Prompt),
        _ => Err("takes `native`, `object` or `prompt`".to_owned()),
    })
}

/// Whether there is a Batch API, or the bounds of its files.
#[expect(clippy::option_option, reason = "not said, none, or these")]
fn batch<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Option<Bounds>>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Typed {
        Switch(bool),
        Table {
            requests: Option<NonZeroUsize>,
            bytes: Option<String>,
        },
    }
    const TAKES: &str = "takes true, false or { requests = 50000, bytes = \"200MB\" }";
    match Typed::deserialize(deserializer) {
        Ok(Typed::Switch(has)) => Ok(Some(has.then_some(BOUNDS))),
        Ok(Typed::Table { requests, bytes }) => {
            let bytes = bytes.map(|bytes| parse_size(&bytes)).transpose();
            let bytes = bytes.map_err(de::Error::custom)?;
            Ok(Some(Some(Bounds {
                requests: requests.map_or(BOUNDS.requests, NonZeroUsize::get),
                bytes: bytes.unwrap_or(BOUNDS.bytes),
            })))
        }
        Err(_) => Err(de::Error::custom(TAKES)),
    }
}

#[cfg(not(feature = "oauth"))]
fn not_built<'de, D: Deserializer<'de>>(_: D) -> Result<(), D::Error> {
    Err(de::Error::custom(
        "this program was built without the feature `oauth`",
    ))
}

/// The name of a field of requests, of those that a profile may set.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Field(String);

impl<'de> Deserialize<'de> for Field {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        if RESERVED.contains(&name.as_str()) {
            return Err(de::Error::custom(format!("{WRITTEN} `{name}`")));
        }
        Ok(Self(name))
    }
}

/// Fields of requests without a key in them.
fn params<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Param>, D::Error> {
    let table = BTreeMap::<Field, serde_json::Value>::deserialize(deserializer)?;
    if let Some((Field(name), _)) = table.iter().find(|(name, value)| holds_key(&name.0, value)) {
        let name = redact(name, Words::Own);
        return Err(de::Error::custom(format!("the field {name} has {SECRET}")));
    }
    Ok(table
        .into_iter()
        .map(|(Field(name), value)| Param {
            name,
            json: value.to_string(),
        })
        .collect())
}

/// Whether a value is a key by its looks, or a long one by its name.
fn holds_key(name: &str, value: &serde_json::Value) -> bool {
    match value {
        serde_json::Value::String(text) => {
            let named = format!("{name}={text}");
            redact(text, Words::Own) != *text
                || (text.len() >= SHORTEST && redact(&named, Words::Own) != named)
        }
        serde_json::Value::Array(values) => values.iter().any(|value| holds_key(name, value)),
        serde_json::Value::Object(table) => {
            table.iter().any(|(name, value)| holds_key(name, value))
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_the_options_are_called() {
        let file = parse(
            "profile = 'corp'\nchunk-tokens = 500\ntimeout = '5m'\nby = 'line'\n\
             [profiles.corp]\nbase-url = 'https://llm.corp.example/v1'\nend = 'done'\n\
             auth = 'api-key'\nheaders = { X-Team = 'docs' }\nparams = { temperature = 0 }\n",
            "config.toml",
        )
        .unwrap();
        assert_eq!(file.timeout, Some(Duration::from_mins(5)));
        assert_eq!(file.by, Some(By::Line));
        let corp = &file.profiles["corp"];
        assert_eq!(corp.end, Some(End::Done));
        assert_eq!(corp.params[0].json, "0");
        assert_eq!(corp.headers["X-Team"], "docs");
    }

    #[test]
    fn names_file_line_and_key() {
        let cases = [
            (
                "jobs = 4\nmodle = 'x'\n",
                "c.toml:2: `modle`: unknown key",
                "did you mean `model`?",
            ),
            ("jobs = 0\n", "c.toml:1: `jobs`: ", ""),
            (
                "\n\ntimeout = '5'\n",
                "c.toml:3: `timeout`: takes a time with its unit",
                "",
            ),
            (
                "[profiles.a]\nbase_url = 'x'\n",
                "c.toml:2: `base_url`: unknown key",
                "did you mean `base-url`?",
            ),
            (
                "[profiles.a]\napi-key = 'canary'\n",
                "c.toml:2: `api-key`: unknown key",
                "keys do not belong",
            ),
            (
                "[profiles.a]\nkey-env = 'sk-canary'\n",
                "c.toml:2: `key-env`: takes the name of a variable, and this may be a key in the clear",
                "keys do not belong",
            ),
            (
                "[profiles.a]\nheaders = { Authorization = 'Bearer canary' }\n",
                "c.toml:2: `headers`: the header Authorization has a key in the clear",
                "keys do not belong",
            ),
            ("jobs = = 4\n", "c.toml:1: `jobs`: ", ""),
        ];
        for (text, message, hint) in cases {
            let error = parse(text, "c.toml").unwrap_err();
            assert!(error.to_string().starts_with(message), "{error}");
            assert!(
                error.hint().unwrap_or_default().starts_with(hint),
                "{error:?}"
            );
            assert!(
                !format!("{error} {error:?}").contains("canary"),
                "{error:?}"
            );
        }
    }
}
