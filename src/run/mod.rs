//! From the arguments to an exit status: the rooms are put together here, and
//! nowhere else.

mod filter;
mod parts;
mod task;

use std::ffi::OsString;
use std::io::{self, Write as _};

use crate::cli::argv::{self, Typed};
use crate::cli::manual;
use crate::error::{Error, ExitStatus};
use crate::report::message;

/// Runs the program with the arguments after its name and tells how it ended;
/// every message has been written by then.
#[must_use]
pub fn run(args: Vec<OsString>) -> ExitStatus {
    match argv::parse(args).and_then(dispatch) {
        Ok(status) => status,
        Err(error) => {
            message::error(&error);
            error.status()
        }
    }
}

fn dispatch(typed: Typed) -> Result<ExitStatus, Error> {
    match typed {
        Typed::Help => print(&manual::help()),
        Typed::Version => print(concat!("gptpipe ", env!("CARGO_PKG_VERSION"), "\n")),
        Typed::Run { cli, operands } => filter::filter(*cli, operands),
    }
}

fn print(text: &str) -> Result<ExitStatus, Error> {
    let mut stdout = io::stdout().lock();
    let written = stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush());
    match written {
        Ok(()) => Ok(ExitStatus::Success),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(Error::ReaderLeft),
        Err(error) => Err(Error::Output(error)),
    }
}
