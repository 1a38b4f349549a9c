//! `gptpipe batch`: what was submitted in batches, in lines for people and scripts.

use std::fmt::Write as _;

use crate::api::client::Client;
use crate::api::failure::{Failure, Kind, Verdict};
use crate::command::table::{age, lines};
use crate::error::{Error, ExitStatus};
use crate::store::batch::{Job, Jobs};

/// The names of the columns.
const HEAD: [&str; 9] = [
    "batch", "state", "done", "failed", "total", "tokens", "age", "model", "host",
];

/// The batches that are known, one a line under the names of the columns, the newest last; nothing
/// where there are none.
#[must_use]
pub fn list(jobs: &[Job]) -> String {
    if jobs.is_empty() {
        return String::new();
    }
    let mut rows = vec![HEAD.map(str::to_owned)];
    rows.extend(jobs.iter().map(|job| {
        [
            job.batch.clone().unwrap_or_else(|| "-".to_owned()),
            job.state.clone(),
            job.completed.to_string(),
            job.failed.to_string(),
            job.total.to_string(),
            job.tokens.to_string(),
            age(Some(job.time())),
            job.model.clone(),
            job.host.clone(),
        ]
    }));
    let mut widths = [0; HEAD.len()];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(widths) {
            // Writing to a string cannot fail.
            let _ = write!(line, "{cell:width$}  ");
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// Asks the server how far the batches are that are not over, and notes it. Gives what went wrong.
///
/// # Errors
/// A record that cannot be written, in words.
pub async fn refresh(client: &Client, record: &Jobs, jobs: &[Job]) -> Result<Vec<String>, String> {
    let mut troubles = Vec::new();
    for job in jobs {
        let Some(id) = &job.batch else {
            continue;
        };
        match client.batch(id).await {
            Ok(batch) => {
                let counts = batch.counts;
                record.progressed(job.id, &batch.word, counts.completed, counts.failed)?;
            }
            Err(failure) => troubles.push(format!("batch {id} cannot be asked about: {failure}")),
        }
    }
    Ok(troubles)
}

/// Has the server cancel a batch, and tells what it said; `is_known` says whether it is on record.
///
/// # Errors
/// [`Error::Request`] when it does not, [`Error::Usage`] where there is nobody to ask.
pub async fn cancel(client: &Client, id: &str, is_known: bool) -> Result<String, Error> {
    let cancelled = client.cancel_batch(id).await;
    let batch = cancelled.map_err(|failure| refused(id, &failure, is_known))?;
    let counts = batch.counts;
    Ok(lines(&[
        ("batch", batch.id),
        ("state", batch.word),
        ("done", counts.completed.to_string()),
        ("failed", counts.failed.to_string()),
        ("total", counts.total.to_string()),
    ]))
}

fn refused(id: &str, failure: &Failure, is_known: bool) -> Error {
    // The name is all that was typed, so a key that nobody spoke of is not what is wrong.
    if failure.kind == Kind::NoKey && !is_known {
        return Error::usage_hint(
            format!(
                "there is no batch {id} on record here, and no server can be asked about it: {}",
                failure.message
            ),
            "`gptpipe batch` tells those on record; for another one name its profile with `-P`",
        );
    }
    let status = match failure.verdict() {
        // What is over stays so, and what is not there can be another's.
        _ if matches!(failure.status, Some(404 | 409)) => ExitStatus::Failed,
        Verdict::Transient => ExitStatus::Temporary,
        Verdict::Fatal => ExitStatus::Failed,
        Verdict::FatalForAll => ExitStatus::Hopeless,
    };
    let hint = match failure.status {
        Some(404 | 409) => Some("`gptpipe batch` tells which batches there are".to_owned()),
        _ => failure.hint().map(str::to_owned),
    };
    Error::Request {
        status,
        message: format!("batch {id} is not cancelled: {failure}"),
        hint,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_are_told_in_columns() {
        assert_eq!(list(&[]), "");
        let job = Job {
            id: 1,
            mark: "m".to_owned(),
            url: "https://h/v1/chat/completions".to_owned(),
            host: "h".to_owned(),
            profile: "openai".to_owned(),
            model: "m".to_owned(),
            created: u64::MAX >> 32,
            file: None,
            batch: Some("batch_1".to_owned()),
            state: "in_progress".to_owned(),
            total: 500,
            completed: 120,
            failed: 0,
            tokens: 0,
            is_over: false,
        };
        assert_eq!(
            list(&[job]),
            "batch    state        done  failed  total  tokens  age      model  host\n\
             batch_1  in_progress  120   0       500    0       0 s old  m      h\n"
        );
    }
}
