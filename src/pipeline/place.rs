//! Where a chunk stands: what messages call it, and how its failure ends a run.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use crate::api::failure::{Failure, Kind, Verdict};
use crate::api::retry::PATIENCE;
use crate::error::{Error, ExitStatus};
use crate::input::reader::Piece;

/// Where a chunk stands, for messages and for the white space around it.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) number: u64,
    pub(super) file: Arc<str>,
    pub(super) gap: String,
    pub(super) tail: String,
    pub(super) offset: u64,
    pub(super) bytes: u64,
    /// From 1; 0 where what is sent is no piece of a text, and `file` is what messages call it.
    pub(super) line: u64,
}

impl Place {
    /// The place of a chunk: taken off it, so that what is left is what there is to ask about.
    pub(super) fn of(piece: &mut Piece, number: u64) -> Self {
        let chunk = &mut piece.chunk;
        Self {
            number,
            file: Arc::clone(&piece.file),
            gap: std::mem::take(&mut chunk.gap),
            tail: std::mem::take(&mut chunk.tail),
            offset: chunk.offset,
            bytes: chunk.text.len() as u64,
            line: chunk.line,
        }
    }

    /// What a message calls the chunk: its number, and where it stands.
    pub(super) fn name(&self) -> String {
        if self.line == 0 {
            return self.file.to_string();
        }
        let Self {
            number,
            file,
            offset,
            bytes,
            line,
            ..
        } = self;
        format!(
            "chunk {number} (bytes {offset}-{}, line {line} of {file})",
            offset + bytes
        )
    }

    /// Why the chunk failed, after how many attempts.
    pub(super) fn why(failure: &Failure, attempts: u32, took: Duration) -> String {
        // Where asking again did not help there were other reasons to ask several times, such as halves.
        let is_passing = failure.verdict() == Verdict::Transient;
        let tried = match attempts {
            0 | 1 => String::new(),
            _ if !is_passing => String::new(),
            attempts => format!(" after {attempts} attempts in {} s", took.as_secs()),
        };
        let id = failure
            .request_id
            .as_ref()
            .map(|id| format!(" (request {id})"))
            .unwrap_or_default();
        format!("failed{tried}: {failure}{id}")
    }

    /// The failure as the end of the run.
    pub(super) fn failed(&self, failure: &Failure, attempts: u32, took: Duration) -> Error {
        // What is wrong then is nothing about the chunk.
        if failure.kind == Kind::NoKey {
            return Error::Usage {
                message: failure.message.clone(),
                hint: failure.hint().map(str::to_owned),
            };
        }
        let status = match failure.verdict() {
            Verdict::Transient => ExitStatus::Temporary,
            Verdict::Fatal => ExitStatus::Failed,
            Verdict::FatalForAll => ExitStatus::Hopeless,
        };
        let mut message = format!("{} {}", self.name(), Self::why(failure, attempts, took));
        if let Some(wait) = failure.retry_after.filter(|wait| *wait > PATIENCE) {
            let _ = write!(
                message,
                "; the server asks to wait {}",
                humantime::format_duration(Duration::from_secs(wait.as_secs()))
            );
        }
        Error::Request {
            status,
            message,
            hint: failure.hint().map(str::to_owned),
        }
    }
}
