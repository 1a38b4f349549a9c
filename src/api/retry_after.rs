//! How long a server asks to be left alone, by all the names that real servers use for it.
//!
//! RFC 9110 §10.2.3 knows seconds and a date. `OpenAI` adds milliseconds and the times at which its limits are
//! reset; `LiteLLM` hands on the header of the server behind it under another name. Whatever does not make sense
//! is passed over, and what is absurdly long is shortened, so that sums of time cannot overflow.

use std::time::{Duration, SystemTime};

/// No wait is longer than this, whatever a server asks for.
const LONGEST: Duration = Duration::from_hours(8784);

/// A limit of which no more than one part in so many is left is nearly used up.
const NEARLY: u64 = 20;

/// The wait that the headers of a response ask for. `header` looks one up by its name in lower case; a date is
/// taken relative to `now`.
pub fn retry_after(header: &dyn Fn(&str) -> Option<String>, now: SystemTime) -> Option<Duration> {
    let seconds = |text: String| parse_number(&text);
    let date = |text: String| {
        let date = httpdate::parse_http_date(text.trim()).ok()?;
        Some(date.duration_since(now).unwrap_or_default().min(LONGEST))
    };
    let either = |name: &str| {
        header(name)
            .and_then(seconds)
            .or_else(|| header(name).and_then(date))
    };
    // OpenAI: the wait in milliseconds. The limits' own reset times count only when that limit is used up.
    header("retry-after-ms")
        .and_then(|text| Some(parse_number(&text)? / 1000))
        .or_else(|| either("retry-after"))
        .or_else(|| either("llm_provider-retry-after"))
        .or_else(|| {
            let spans = ["requests", "tokens"].into_iter().filter_map(|unit| {
                let left = header(&format!("x-ratelimit-remaining-{unit}"))?;
                let span = header(&format!("x-ratelimit-reset-{unit}"))?;
                (left.trim() == "0").then(|| parse_span(span.trim()))?
            });
            spans.max()
        })
}

/// What a response says of the server's limits when they are nearly used up: the time in which one more
/// request of this size is let in (`OpenAI`, "Rate limits", "Rate limits in headers": the reset is when all of
/// the limit is there again, so a part of it comes in a part of that time). `tokens` is what the request took.
pub fn refill(header: &dyn Fn(&str) -> Option<String>, tokens: u64) -> Option<Duration> {
    let units = [("requests", 1), ("tokens", tokens)];
    let waits = units.into_iter().filter_map(|(unit, needed)| {
        let number = |part: &str| -> Option<u64> {
            header(&format!("x-ratelimit-{part}-{unit}"))?
                .trim()
                .parse()
                .ok()
        };
        let (limit, left) = (number("limit")?, number("remaining")?);
        if limit == 0 || left > limit / NEARLY {
            return None;
        }
        let reset = header(&format!("x-ratelimit-reset-{unit}"))?;
        let reset = parse_span(reset.trim()).or_else(|| parse_number(&reset))?;
        let used = limit.saturating_sub(left).max(1);
        #[expect(clippy::cast_precision_loss, reason = "a wait need not be exact")]
        let part = (needed as f64 / used as f64).min(1.0);
        Some(reset.mul_f64(part))
    });
    waits.max().filter(|wait| !wait.is_zero())
}

/// Seconds, also with a fraction; nothing for what is negative or not a number.
fn parse_number(text: &str) -> Option<Duration> {
    let number: f64 = text.trim().parse().ok()?;
    if number.is_nan() || number < 0.0 {
        return None;
    }
    Some(
        Duration::try_from_secs_f64(number)
            .unwrap_or(LONGEST)
            .min(LONGEST),
    )
}

/// Spans as `6m0s`, `1.5s` and `20ms`.
pub(super) fn parse_span(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut sum = Duration::ZERO;
    while !rest.is_empty() {
        let number = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let unit = &rest[number..];
        let end = unit
            .find(|c: char| c.is_ascii_digit())
            .unwrap_or(unit.len());
        let span = parse_number(&rest[..number])?;
        sum = sum.saturating_add(match &unit[..end] {
            "h" => span.saturating_mul(3600),
            "m" => span.saturating_mul(60),
            "s" => span,
            "ms" => span / 1000,
            _ => return None,
        });
        rest = &unit[end..];
    }
    (!text.is_empty()).then_some(sum.min(LONGEST))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(headers: &[(&str, &str)], tokens: u64) -> Option<Duration> {
        let header = |name: &str| {
            let found = headers.iter().find(|(header, _)| *header == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        refill(&header, tokens)
    }

    #[test]
    fn a_limit_that_is_nearly_used_up_slows_down() {
        let requests = |left, reset| {
            [
                ("x-ratelimit-limit-requests", "500"),
                ("x-ratelimit-remaining-requests", left),
                ("x-ratelimit-reset-requests", reset),
            ]
        };
        assert_eq!(
            of(&requests("0", "1m0s"), 0),
            Some(Duration::from_millis(120))
        );
        assert_eq!(of(&requests("100", "48s"), 0), None);
        assert_eq!(of(&requests("none", "48s"), 0), None);
        assert_eq!(of(&requests("0", "0s"), 0), None);
        assert_eq!(of(&requests("0", "soon"), 0), None);
        let tokens = [
            ("x-ratelimit-limit-tokens", "60000"),
            ("x-ratelimit-remaining-tokens", "0"),
            ("x-ratelimit-reset-tokens", "60"),
        ];
        assert_eq!(of(&tokens, 2000), Some(Duration::from_secs(2)));
        // More than all of the limit takes as long as all of it.
        assert_eq!(of(&tokens, 1_000_000), Some(Duration::from_mins(1)));
    }
}
