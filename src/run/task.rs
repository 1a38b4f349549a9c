//! What a run works on: the prompt and the files, told apart and opened.

use std::ffi::OsString;
use std::fs;
use std::io::{self, IsTerminal as _};
use std::sync::Arc;

use crate::error::Error;
use crate::input::reader::{self, Source};
use crate::output::schema::Schema;

/// What a run works on.
#[derive(Debug)]
pub(super) struct Task {
    pub(super) prompt: String,
    /// None: the prompt alone is sent.
    pub(super) sources: Option<Vec<Source>>,
    /// What replies have to follow.
    pub(super) schema: Option<Arc<Schema>>,
}

/// Sorts the operands into prompt and files, and opens these.
pub(super) fn task(
    prompt_file: Option<&str>,
    schema: Option<&str>,
    is_null_input: bool,
    mut operands: Vec<OsString>,
) -> Result<Task, Error> {
    let prompt = match prompt_file {
        Some("-") => io::read_to_string(io::stdin()).map_err(|source| Error::NoInput {
            file: "standard input".to_owned(),
            source,
        })?,
        Some(path) => fs::read_to_string(path).map_err(|source| Error::NoInput {
            file: path.to_owned(),
            source,
        })?,
        None if operands.is_empty() => {
            return Err(Error::usage_hint(
                "there is no prompt",
                "say what to do with the text, as in `gptpipe summarize report.txt`; \
                 see `gptpipe --help`",
            ));
        }
        None => operands
            .remove(0)
            .into_string()
            .map_err(|_| Error::usage("the prompt is not UTF-8"))?,
    };
    if prompt.trim().is_empty() {
        return Err(Error::usage("the prompt is empty"));
    }
    let prompt = prompt.trim_end_matches(['\n', '\r']).to_owned();
    if is_null_input && !operands.is_empty() {
        return Err(Error::usage_hint(
            "`--null-input` takes no files",
            "leave out either the files or `-n`",
        ));
    }
    let reads_nothing =
        operands.is_empty() && (prompt_file == Some("-") || io::stdin().is_terminal());
    let sources = if is_null_input || reads_nothing {
        None
    } else {
        Some(reader::open(&operands)?)
    };
    let schema = schema.map(read_schema).transpose()?;
    Ok(Task {
        prompt,
        sources,
        schema,
    })
}

fn read_schema(path: &str) -> Result<Arc<Schema>, Error> {
    let text = fs::read_to_string(path).map_err(|source| Error::NoInput {
        file: path.to_owned(),
        source,
    })?;
    Ok(Arc::new(Schema::parse(&text, path)?))
}
