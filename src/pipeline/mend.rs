//! Replies held to a schema: one that does not follow it is shown to the model once more, with what
//! is wrong with it.

use crate::api::failure::{Failure, Kind};
use crate::api::reply::{Reply, Usage};
use crate::output::schema::Schema;

/// A reply after the check.
#[derive(Debug)]
pub(super) enum Checked {
    /// It follows the schema, or there is none.
    Right(Reply),
    /// It does not, and these are its faults: to be asked for again.
    Wrong(Reply, String),
}

/// Holds a reply to the schema. `before` is the one before it that did not follow it: there is no
/// third.
pub(super) fn check(
    schema: Option<&Schema>,
    mut reply: Reply,
    before: Option<Reply>,
) -> Result<Checked, Failure> {
    let Some(schema) = schema else {
        return Ok(Checked::Right(reply));
    };
    let is_second = before.is_some();
    if let Some(before) = before {
        reply.usage = sum(before.usage, reply.usage);
    }
    match schema.check(&reply.text) {
        Ok(json) => {
            reply.text = json;
            Ok(Checked::Right(reply))
        }
        Err(faults) if is_second => {
            Err(Failure::new(Kind::Schema, &one_line(&faults)).with_partial(reply))
        }
        Err(faults) => Ok(Checked::Wrong(reply, faults)),
    }
}

/// The tokens of two requests together.
pub(super) fn sum(one: Option<Usage>, other: Option<Usage>) -> Option<Usage> {
    if one.is_none() && other.is_none() {
        return None;
    }
    let (one, other) = (one.unwrap_or_default(), other.unwrap_or_default());
    Some(Usage {
        prompt_tokens: one.prompt_tokens + other.prompt_tokens,
        completion_tokens: one.completion_tokens + other.completion_tokens,
        cached_tokens: one.cached_tokens + other.cached_tokens,
    })
}

/// A list of faults as part of a message.
pub(super) fn one_line(faults: &str) -> String {
    faults.trim_start_matches("- ").replace("\n- ", "; ")
}
