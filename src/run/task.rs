//! What a run works on: the prompt and the files, told apart and opened.

use std::ffi::OsString;
use std::fs;
use std::io::{self, IsTerminal as _, Read as _};
use std::path::Path;
use std::sync::Arc;

use crate::config::settings::Config;
use crate::error::{Error, Role};
use crate::input::reader::{self, Source};
use crate::output::replace::{self, Replacement};
use crate::output::schema::Schema;

/// What a run works on.
#[derive(Debug)]
pub(super) struct Task {
    pub(super) prompt: String,
    /// None: the prompt alone is sent.
    pub(super) sources: Option<Vec<Source>>,
    /// What replies have to follow.
    pub(super) schema: Option<Arc<Schema>>,
    /// The files that are replaced by what comes of them; empty for none.
    pub(super) replaced: Vec<Replacement>,
    /// What should be told before anything is sent.
    pub(super) remark: Option<String>,
    /// What should be told if there was no text: the prompt may have been meant as a file.
    pub(super) remark_if_empty: Option<String>,
}

/// Sorts the operands into prompt and files, and opens these.
pub(super) fn task(
    prompt_file: Option<&str>,
    config: &Config,
    is_null_input: bool,
    mut operands: Vec<OsString>,
) -> Result<Task, Error> {
    let is_stdin_prompt = prompt_file == Some("-");
    if is_stdin_prompt && operands.iter().any(|operand| operand == "-") {
        return Err(Error::usage_hint(
            "standard input cannot be both the prompt and the text",
            "leave out `-`, or name a file for one of them",
        ));
    }
    let prompt = match prompt_file {
        Some("-") => {
            let mut bytes = Vec::new();
            let read = io::stdin().read_to_end(&mut bytes).map(|_| bytes);
            whole("standard input", read, Role::Prompt)?
        }
        Some(path) => whole(path, fs::read(path), Role::Prompt)?,
        None if operands.is_empty() => {
            return Err(Error::usage_hint(
                "there is no prompt",
                "say what to do with the text, as in `gptpipe summarize report.txt`; to try it \
                 without a key, `gptpipe --demo summarize report.txt`; see `gptpipe --help`",
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
    let is_terminal = operands.is_empty() && !is_stdin_prompt && io::stdin().is_terminal();
    let reads_nothing = operands.is_empty() && (is_stdin_prompt || is_terminal);
    let is_file = prompt_file.is_none() && operands.is_empty() && Path::new(&prompt).is_file();
    let for_file = is_file.then(|| {
        format!(
            "`{prompt}` is taken as the prompt, and a file has that name: the prompt goes before \
             the file, as in `gptpipe summarize {prompt}`"
        )
    });
    let mut sources = if is_null_input || reads_nothing {
        None
    } else {
        Some(reader::open(&operands)?)
    };
    let replaced = match &config.in_place {
        Some(suffix) => replacements(&operands, suffix.as_deref(), &mut sources)?,
        None => Vec::new(),
    };
    let (remark, remark_if_empty) = if is_null_input {
        (None, None)
    } else if is_terminal {
        let for_terminal = || {
            "standard input is a terminal, so the prompt is sent alone; say `-n` to mean that, or \
             name a file"
                .to_owned()
        };
        (Some(for_file.unwrap_or_else(for_terminal)), None)
    } else {
        (None, for_file)
    };
    Ok(Task {
        prompt,
        sources,
        schema: config.schema.as_deref().map(read_schema).transpose()?,
        replaced,
        remark,
        remark_if_empty,
    })
}

/// The text of a file that was read as a whole.
fn whole(file: &str, read: io::Result<Vec<u8>>, role: Role) -> Result<String, Error> {
    let bytes = read.map_err(|source| Error::NoInput {
        file: file.to_owned(),
        source,
        role,
    })?;
    reader::text(&bytes, file)
}

fn read_schema(path: &str) -> Result<Arc<Schema>, Error> {
    if path == "-" {
        return Err(Error::usage_hint(
            "`--schema` takes a file, and standard input is none",
            "write the schema into a file, and name that",
        ));
    }
    let text = whole(path, fs::read(path), Role::Schema)?;
    Ok(Arc::new(Schema::parse(&text, path)?))
}

/// The files that are to be replaced. One that is named twice is taken once, from `sources` too:
/// all are read before any is written, so there is no second pass over what came of the first.
fn replacements(
    operands: &[OsString],
    suffix: Option<&str>,
    sources: &mut Option<Vec<Source>>,
) -> Result<Vec<Replacement>, Error> {
    if operands.is_empty() || operands.iter().any(|operand| operand == "-") {
        return Err(Error::usage_hint(
            "`--in-place` replaces files, and standard input is none",
            "name the files after the prompt",
        ));
    }
    let files = operands.iter().map(Path::new);
    let mut replaced = files
        .map(|file| Replacement::new(file, suffix))
        .collect::<Result<Vec<_>, _>>()?;
    let firsts = replace::firsts(&replaced)?;
    let mut is_first = firsts.iter();
    replaced.retain(|_| is_first.next() == Some(&true));
    let mut is_first = firsts.iter();
    if let Some(sources) = sources {
        sources.retain(|_| is_first.next() == Some(&true));
    }
    Ok(replaced)
}
