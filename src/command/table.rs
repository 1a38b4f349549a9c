//! What commands print: names and values, times and ages.

use std::fmt::Write as _;
use std::time::SystemTime;

/// Names and values in two columns.
pub(super) fn lines(pairs: &[(&str, String)]) -> String {
    let width = pairs.iter().map(|(name, _)| name.len()).max();
    let width = width.unwrap_or_default() + 2;
    let mut text = String::new();
    for (name, value) in pairs {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{name:width$}{value}");
    }
    text
}

/// A time in UTC.
pub(super) fn time(time: Option<SystemTime>) -> String {
    let mut text = String::new();
    match time {
        None => "none".to_owned(),
        // A year of five digits, from a clock gone mad, cannot be written.
        Some(time) => match write!(text, "{}", humantime::format_rfc3339_seconds(time)) {
            Ok(()) => text,
            Err(_) => "unknown".to_owned(),
        },
    }
}

/// How long ago a time was, in days, or in less where it was less.
pub(super) fn age(since: Option<SystemTime>) -> String {
    since.map_or_else(
        || "unknown".to_owned(),
        |since| format!("{} old", span(since)),
    )
}

/// The time since then.
pub(super) fn span(since: SystemTime) -> String {
    let span = SystemTime::now().duration_since(since).unwrap_or_default();
    match span.as_secs() {
        seconds @ 0..120 => format!("{seconds} s"),
        seconds @ 120..7_200 => format!("{} min", seconds / 60),
        seconds @ 7_200..172_800 => format!("{} h", seconds / 3_600),
        seconds => format!("{} days", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn ages_are_told_in_fitting_units() {
        let old = |seconds| age(Some(SystemTime::now() - Duration::from_secs(seconds)));
        assert_eq!(age(None), "unknown");
        assert_eq!(old(600), "10 min old");
        assert_eq!(old(7_300), "2 h old");
        assert_eq!(old(93 * 86_400 + 5), "93 days old");
        // A clock that was set back makes nothing younger than nothing.
        assert_eq!(
            age(Some(SystemTime::now() + Duration::from_mins(10))),
            "0 s old"
        );
    }
}
