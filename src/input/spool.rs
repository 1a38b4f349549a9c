//! Sources that can be read more than once: what comes through a pipe is written down first.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Seek as _, Write as _};
use std::sync::Arc;

use crate::error::{Error, Role};
use crate::input::reader::{From, Source};

/// Sources, each of which can be read again.
#[derive(Debug)]
pub struct Spool(Vec<Kept>);

#[derive(Debug)]
struct Kept {
    name: Arc<str>,
    from: Place,
}

#[derive(Debug)]
enum Place {
    File(File),
    Path(OsString),
}

impl Spool {
    /// Makes sure that all sources can be read again. What is no regular file is read to its end,
    /// into a file that `scratch` makes; that blocks for as long as it takes to come.
    ///
    /// # Errors
    /// [`Error::NoInput`] when reading fails, [`Error::System`] when writing does.
    pub fn new(
        sources: Vec<Source>,
        scratch: impl Fn() -> io::Result<File>,
    ) -> Result<Self, Error> {
        let kept = sources.into_iter().map(|Source { name, from }| {
            let from = match from {
                From::Path(path) => Place::Path(path),
                From::Open(file) if file.metadata().is_ok_and(|it| it.is_file()) => {
                    Place::File(file)
                }
                From::Open(file) => Place::File(written_down(file, &name, &scratch)?),
                From::Stdin => Place::File(written_down(io::stdin(), &name, &scratch)?),
            };
            Ok(Kept { name, from })
        });
        kept.collect::<Result<_, _>>().map(Self)
    }

    /// The sources from their beginnings. Only one reading may go on at a time.
    ///
    /// # Errors
    /// [`Error::NoInput`] for what cannot be read again.
    pub fn sources(&self) -> Result<Vec<Source>, Error> {
        let sources = self.0.iter().map(|Kept { name, from }| {
            let from = match from {
                Place::Path(path) => From::Path(path.clone()),
                Place::File(file) => {
                    let again = file.try_clone().and_then(|mut file| {
                        file.rewind()?;
                        Ok(file)
                    });
                    From::Open(again.map_err(|source| unread(name, source))?)
                }
            };
            Ok(Source {
                name: Arc::clone(name),
                from,
            })
        });
        sources.collect()
    }
}

fn unread(name: &str, source: io::Error) -> Error {
    Error::NoInput {
        file: name.to_owned(),
        source,
        role: Role::Text,
    }
}

fn written_down(
    mut input: impl Read,
    name: &str,
    scratch: &impl Fn() -> io::Result<File>,
) -> Result<File, Error> {
    let failed = |source| Error::System {
        what: "write the input down to read it again",
        source,
    };
    let mut file = scratch().map_err(failed)?;
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let length = match input.read(&mut buffer) {
            Ok(0) => return Ok(file),
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(unread(name, error)),
        };
        file.write_all(&buffer[..length]).map_err(failed)?;
    }
}
