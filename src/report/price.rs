//! What tokens cost: the providers' published prices, and over them what the user
//! says. A model that neither knows has no price, and that is never taken for free.

use std::fmt::Write as _;

use serde::Deserialize;

use crate::api::reply::Usage;

/// The table that is built in, each row with its date and the page that it was taken from.
const BUILT_IN: &str = include_str!("prices.toml");

/// What a model's tokens cost, in US dollars for a million of them.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Price {
    /// Of the prompt.
    pub input: f64,
    /// Of the prompt, where they come out of the server's cache; as `input` where nothing is said.
    pub cached_input: Option<f64>,
    /// Of the reply.
    pub output: f64,
    /// The most tokens that a reply can have.
    pub max_output: Option<u32>,
    /// Prompts of more tokens are long ones, and their requests have prices of their own.
    pub long_above: Option<u64>,
    /// Of a long prompt; as `input` where nothing is said, and so on.
    pub long_input: Option<f64>,
    /// Of a long prompt out of the server's cache.
    pub long_cached_input: Option<f64>,
    /// Of the reply to one.
    pub long_output: Option<f64>,
}

impl Price {
    /// The price that is built in for a model, with or without the date of its version in the name.
    #[must_use]
    pub fn built_in(model: &str) -> Option<Self> {
        row(model).or_else(|| row(without_date(model)?))
    }

    /// The price of the same by a Batch API: half of everything (`OpenAI`'s and Groq's pages on
    /// batches, November 2026).
    #[must_use]
    pub fn by_batch(&self) -> Self {
        let half = |price: Option<f64>| price.map(|price| price / 2.0);
        Self {
            input: self.input / 2.0,
            cached_input: half(self.cached_input),
            output: self.output / 2.0,
            long_input: half(self.long_input),
            long_cached_input: half(self.long_cached_input),
            long_output: half(self.long_output),
            ..*self
        }
    }

    /// What a request cost, in billionths of a US dollar.
    #[must_use]
    pub fn cost(&self, usage: Usage) -> i64 {
        let (prompt, cached) = (usage.prompt_tokens, usage.cached_tokens);
        // Some count only what was not in their own cache.
        let fresh = prompt.checked_sub(cached).unwrap_or(prompt);
        let is_long = self
            .long_above
            .is_some_and(|bound| fresh.saturating_add(cached) > bound);
        let (mut input, mut cached_input, mut output) =
            (self.input, self.cached_input, self.output);
        if is_long {
            input = self.long_input.unwrap_or(input);
            cached_input = self.long_cached_input.or(cached_input);
            output = self.long_output.unwrap_or(output);
        }
        let cost = count(fresh) * input
            + count(cached) * cached_input.unwrap_or(input)
            + count(usage.completion_tokens) * output;
        // Dollars for a million are thousands of billionths for one.
        #[expect(
            clippy::cast_possible_truncation,
            reason = "a float is cut at the bounds"
        )]
        let billionths = (cost * 1e3).round() as i64;
        billionths
    }
}

#[expect(clippy::cast_precision_loss, reason = "far below where that matters")]
fn count(tokens: u64) -> f64 {
    tokens as f64
}

/// One row, found by its heading, so that the others need not be read.
fn row(model: &str) -> Option<Price> {
    if model.contains(['"', '\n', '\\']) {
        return None;
    }
    let heading = format!("\n[\"{model}\"]\n");
    let from = BUILT_IN.find(&heading)? + heading.len();
    let rest = &BUILT_IN[from..];
    let end = rest.find("\n[").unwrap_or(rest.len());
    toml::from_str(&rest[..end]).ok()
}

/// `model-2026-09-22` and `model-20260922` are versions of `model`.
fn without_date(model: &str) -> Option<&str> {
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let (rest, last) = model.rsplit_once('-')?;
    if last.len() == 8 && digits(last) {
        return Some(rest);
    }
    let (rest, month) = rest.rsplit_once('-')?;
    let (rest, year) = rest.rsplit_once('-')?;
    let is_date = [(year, 4), (month, 2), (last, 2)]
        .into_iter()
        .all(|(part, length)| part.len() == length && digits(part));
    is_date.then_some(rest)
}

/// Money for people: cents, and below one as many digits as say something.
#[must_use]
pub fn dollars(billionths: i64) -> String {
    #[expect(clippy::cast_precision_loss, reason = "it is rounded anyhow")]
    let dollars = billionths as f64 / 1e9;
    let digits = match billionths.unsigned_abs() {
        1..1_000_000 => 6,
        1_000_000..100_000_000 => 4,
        _ => 2,
    };
    let mut text = String::from("$");
    // Writing to a string cannot fail.
    let _ = write!(text, "{dollars:.digits$}");
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn usage(prompt_tokens: u64, cached_tokens: u64, completion_tokens: u64) -> Usage {
        Usage {
            prompt_tokens,
            completion_tokens,
            cached_tokens,
        }
    }

    const PRICE: Price = Price {
        input: 0.10,
        cached_input: Some(0.01),
        output: 0.50,
        max_output: None,
        long_above: Some(200_000),
        long_input: Some(0.20),
        long_cached_input: Some(0.02),
        long_output: Some(0.75),
    };

    #[test]
    fn tokens_of_each_kind_have_their_price() {
        assert_eq!(PRICE.cost(usage(1_000_000, 0, 0)), 200_000_000);
        assert_eq!(PRICE.cost(usage(1000, 0, 0)), 100_000);
        assert_eq!(PRICE.cost(usage(1000, 400, 0)), 60_000 + 4_000);
        assert_eq!(PRICE.cost(usage(100, 400, 0)), 10_000 + 4_000);
        assert_eq!(PRICE.cost(usage(0, 0, 1000)), 500_000);
        assert_eq!(PRICE.cost(usage(200_001, 0, 10)), 40_000_200 + 7_500);
        let whole = Price {
            cached_input: None,
            ..PRICE
        };
        assert_eq!(whole.cost(usage(1000, 400, 0)), 100_000);
    }

    #[test]
    fn models_are_known_by_name_and_version_and_no_other() {
        let luna = Price::built_in("gpt-6-luna").unwrap();
        assert_eq!(Price::built_in("gpt-6-luna-2026-09-22"), Some(luna.clone()));
        assert_eq!(Price::built_in("gpt-6-luna-20260922"), Some(luna));
        for unknown in [
            "gpt-6-lunar",
            "gpt-6",
            "",
            "x\"]\n[\"gpt-6-luna",
            "-2026-09-22",
        ] {
            assert_eq!(Price::built_in(unknown), None, "{unknown}");
        }
    }

    #[test]
    fn every_row_of_the_table_says_where_it_comes_from() {
        #[derive(Deserialize)]
        struct Origin {
            source: String,
            date: String,
        }
        let table: BTreeMap<String, Origin> = toml::from_str(BUILT_IN).unwrap();
        assert!(table.len() > 20);
        for (model, origin) in table {
            assert!(origin.source.starts_with("https://"), "{model}");
            assert_eq!(origin.date.len(), "2026-11-05".len(), "{model}");
            let price = Price::built_in(&model).unwrap();
            assert!(price.input >= 0.0 && price.output >= price.input, "{model}");
            assert!(
                price
                    .cached_input
                    .is_none_or(|cached| cached <= price.input)
            );
        }
    }

    #[test]
    fn money_is_written_with_digits_that_say_something() {
        for (billionths, text) in [
            (0, "$0.00"),
            (1_234, "$0.000001"),
            (12_345_678, "$0.0123"),
            (1_234_567_890, "$1.23"),
        ] {
            assert_eq!(dollars(billionths), text);
        }
    }
}
