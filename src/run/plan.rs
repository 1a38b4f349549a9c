//! The plan of a run, for `--dry-run`: what would be sent, and nothing is.
//!
//! It takes the very chunks of a run and looks each up where the run would, so that what it says is
//! what the run does.

use std::collections::HashSet;
use std::fmt::Write as _;

use serde::Serialize;
use tokio::sync::mpsc;

use crate::api::reply::Usage;
use crate::error::Error;
use crate::input::token::TokenCounter;
use crate::output::format::Format;
use crate::output::terminal::visible;
use crate::output::writer::Writer;
use crate::pipeline::found::{Found, Hit, Miss};
use crate::pipeline::tariff::Tariff;
use crate::report::price;

/// What a plan is made with.
pub(super) struct Plan<'a> {
    pub(super) format: Format,
    /// The system message of every request; empty for none.
    pub(super) system: &'a str,
    pub(super) host: &'a str,
    pub(super) model: &'a str,
    pub(super) counter: TokenCounter,
    /// What requests cost.
    pub(super) tariff: &'a Tariff,
    /// Whether what is the same is asked about once.
    pub(super) is_remembered: bool,
    /// Whether replies are merged after the map.
    pub(super) is_reduced: bool,
    pub(super) is_terminal: bool,
}

/// What happens to a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Fate {
    Send,
    Cached,
    /// The same as a chunk before it.
    Repeated,
}

#[derive(Serialize)]
struct Planned<'a> {
    index: u64,
    file: Option<&'a str>,
    start: Option<u64>,
    end: Option<u64>,
    line: Option<u64>,
    tokens: usize,
    fate: Fate,
}

/// The sum of a plan.
#[derive(Debug, Default, Serialize)]
struct Total {
    chunks: u64,
    cached: u64,
    repeated: u64,
    requests: u64,
    prompt_tokens: u64,
    /// What the prompts cost, in US dollars; none where the price is not known.
    prompt_cost: Option<f64>,
    /// What the replies cost at most: those of a set length, or else as long as their chunks.
    reply_cost: Option<f64>,
}

/// Billionths of a US dollar.
#[derive(Debug, Default)]
struct Costs {
    prompts: i64,
    replies: i64,
}

impl Plan<'_> {
    /// Writes the plan of all pieces.
    pub(super) async fn write(
        self,
        pieces: mpsc::Receiver<Result<Found, Error>>,
    ) -> Result<(), Error> {
        let mut writer = Writer::start()?;
        let planned = self.chunks(pieces, &mut writer).await;
        // What stands before a failure is right and stays.
        match planned {
            Err(error @ (Error::Output(_) | Error::ReaderLeft)) => Err(error),
            planned => writer.finish().await.and(planned),
        }
    }

    async fn chunks(
        mut self,
        mut pieces: mpsc::Receiver<Result<Found, Error>>,
        writer: &mut Writer,
    ) -> Result<(), Error> {
        let overhead = self.counter.count(self.system);
        let mut total = Total::default();
        let mut costs = Costs::default();
        let mut seen = HashSet::new();
        while let Some(found) = pieces.recv().await {
            let pieces = match found? {
                Found::Hits(hits) => hits
                    .into_iter()
                    .filter(|hit| hit.reply.is_some())
                    .map(|Hit { piece, .. }| (piece, Fate::Cached))
                    .collect(),
                Found::Miss(Miss { piece, key }) => {
                    // Eight bytes of a hash are enough to tell the chunks of one run apart.
                    let short = u64::from_le_bytes(std::array::from_fn(|at| key.0[at]));
                    let is_first = !self.is_remembered || seen.insert(short);
                    let fate = if is_first { Fate::Send } else { Fate::Repeated };
                    vec![(piece, fate)]
                }
            };
            for (piece, fate) in pieces {
                let chunk = piece.chunk;
                total.chunks += 1;
                let tokens = match chunk.tokens {
                    Some(tokens) => tokens,
                    None => self.counter.count(&chunk.text),
                };
                match fate {
                    Fate::Send => {
                        let context = self.counter.count(&chunk.context);
                        total.requests += 1;
                        let prompt = (overhead + context + tokens) as u64;
                        total.prompt_tokens += prompt;
                        costs.add(self.tariff, prompt, tokens as u64);
                    }
                    Fate::Cached => total.cached += 1,
                    Fate::Repeated => total.repeated += 1,
                }
                let is_text = chunk.line > 0;
                let planned = Planned {
                    index: total.chunks,
                    file: is_text.then_some(&*piece.file),
                    start: is_text.then_some(chunk.offset),
                    end: is_text.then_some(chunk.offset + chunk.text.len() as u64),
                    line: is_text.then_some(chunk.line),
                    tokens,
                    fate,
                };
                writer.write(self.line(&planned)).await?;
            }
        }
        if self.tariff.price.is_some() {
            total.prompt_cost = Some(dollars(costs.prompts));
            total.reply_cost = Some(dollars(costs.replies));
        }
        writer.write(self.total(&total, &costs)).await
    }

    fn line(&self, planned: &Planned<'_>) -> String {
        if self.format == Format::Jsonl {
            return json("chunk", planned);
        }
        let place = match (planned.file, planned.start, planned.end, planned.line) {
            (Some(file), Some(start), Some(end), Some(at)) => {
                format!("bytes {start}-{end}, line {at} of {file}")
            }
            _ => "the prompt alone".to_owned(),
        };
        let fate = match planned.fate {
            Fate::Send => "to send",
            Fate::Cached => "remembered",
            Fate::Repeated => "the same as one before it",
        };
        let Planned { index, tokens, .. } = planned;
        let text = format!(
            "chunk {index}: {}, {fate} ({place})",
            counted(*tokens as u64, "token")
        );
        let mut text = if self.is_terminal {
            visible(&text).into_owned()
        } else {
            text
        };
        text.push('\n');
        text
    }

    fn total(&self, total: &Total, costs: &Costs) -> String {
        if self.format == Format::Jsonl {
            return json("total", total);
        }
        let mut text = String::new();
        let Total {
            chunks,
            cached,
            repeated,
            requests,
            prompt_tokens,
            ..
        } = total;
        let _ = writeln!(
            text,
            "{}: {requests} to send, {cached} remembered, {repeated} the same as others",
            counted(*chunks, "chunk"),
        );
        let _ = writeln!(
            text,
            "{} to {} at {}: {} with the prompt, and the replies",
            counted(*requests, "request"),
            self.model,
            self.host,
            counted(*prompt_tokens, "token"),
        );
        if *requests > 0 {
            text.push_str(&self.cost(costs));
        }
        if self.is_reduced && *chunks > 0 {
            text.push_str("and the requests that merge the replies; how many depends on these\n");
        }
        text
    }
}

impl Plan<'_> {
    /// The cost, as far as it can be known beforehand.
    fn cost(&self, costs: &Costs) -> String {
        if self.tariff.price.is_none() {
            let model = self.model;
            return format!("cost: ?, as there is no known price for the model {model}\n");
        }
        let length = match self.tariff.max_output {
            Some(tokens) => format!("of {} each", counted(tokens.into(), "token")),
            None => "as long as their chunks".to_owned(),
        };
        format!(
            "cost: {} for the prompts, and {} if the replies are {length}\n",
            price::dollars(costs.prompts),
            price::dollars(costs.replies),
        )
    }
}

impl Costs {
    /// Adds a request whose prompt has so many tokens, so many of them in the chunk.
    fn add(&mut self, tariff: &Tariff, prompt_tokens: u64, chunk_tokens: u64) {
        let Some(price) = &tariff.price else {
            return;
        };
        let prompt = Usage {
            prompt_tokens,
            ..Usage::default()
        };
        let whole = Usage {
            completion_tokens: tariff.max_output.map_or(chunk_tokens, u64::from),
            ..prompt
        };
        self.prompts += price.cost(prompt);
        self.replies += price.cost(whole) - price.cost(prompt);
    }
}

#[expect(clippy::cast_precision_loss, reason = "billionths, for people and jq")]
fn dollars(billionths: i64) -> f64 {
    billionths as f64 / 1e9
}

/// A number and what is counted.
fn counted(number: u64, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

/// One line, told apart from those of another kind.
fn json(kind: &'static str, value: &impl Serialize) -> String {
    #[derive(Serialize)]
    struct Typed<'a, T> {
        r#type: &'static str,
        #[serde(flatten)]
        value: &'a T,
    }
    let typed = Typed {
        r#type: kind,
        value,
    };
    // Nothing in it can fail to be written as JSON.
    let mut line = serde_json::to_string(&typed).unwrap_or_default();
    line.push('\n');
    line
}
