//! How long a server asks to be left alone, by all the names that real servers use for it.
//!
//! RFC 9110 §10.2.3 knows seconds and a date. `OpenAI` adds milliseconds and the times at which its limits are
//! reset; `LiteLLM` hands on the header of the server behind it under another name. Whatever does not make sense
//! is passed over, and what is absurdly long is shortened, so that sums of time cannot overflow.

use std::time::{Duration, SystemTime};

/// No wait is longer than this, whatever a server asks for.
const LONGEST: Duration = Duration::from_hours(8784);

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
