//! Files replaced by what is written for them, for `--in-place`.
//!
//! What is written goes into a file beside the old one and takes its place only at the end, by one
//! rename: at any moment the file is the old one or the whole new one. It keeps its mode and, as far
//! as the system allows it, its owner; a symbolic link stays one and what it leads to is replaced.

use std::collections::HashSet;
use std::fs::{self, File, Metadata};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::error::{Error, Role, reason};

/// A file that is to be replaced.
#[derive(Debug)]
pub struct Replacement {
    /// The file as the user named it.
    name: String,
    /// Where it really is.
    path: PathBuf,
    /// What keeps the old one.
    backup: Option<PathBuf>,
    stamp: Stamp,
}

/// What tells whether a file is still the one that was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    length: u64,
    modified: Option<SystemTime>,
}

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        Self {
            length: metadata.len(),
            modified: metadata.modified().ok(),
        }
    }
}

/// What became of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replaced {
    /// What was written has taken its place.
    Whole,
    /// It is as it was.
    Left,
    /// Somebody else changed it while its replies were waited for, so it is left as it is.
    Changed,
}

impl Replacement {
    /// Gets ready to replace a file; nothing is written yet. A `*` in `suffix` stands for the
    /// file's name; without one the suffix goes behind it. A relative path is one from the file's
    /// own folder.
    ///
    /// # Errors
    /// [`Error::Usage`] for what is no regular file, and for a folder that cannot be written.
    pub fn new(name: &Path, suffix: Option<&str>) -> Result<Self, Error> {
        let shown = name.display().to_string();
        let refused = |source: io::Error| Error::NoInput {
            file: shown.clone(),
            source,
            role: Role::Text,
        };
        let path = fs::canonicalize(name).map_err(refused)?;
        let metadata = fs::metadata(&path).map_err(refused)?;
        let (Some(folder), Some(base), true) =
            (path.parent(), path.file_name(), metadata.is_file())
        else {
            return Err(Error::usage_hint(
                format!("`{shown}` is no regular file, so it cannot be replaced"),
                "leave out --in-place, or name other files",
            ));
        };
        if !is_writable(folder) {
            return Err(Error::usage_hint(
                format!("`{shown}` cannot be replaced: its folder cannot be written"),
                "write to another file instead, without --in-place",
            ));
        }
        let backup = suffix.filter(|suffix| !suffix.is_empty()).map(|suffix| {
            let base = base.to_string_lossy();
            folder.join(if suffix.contains('*') {
                suffix.replace('*', &base)
            } else {
                format!("{base}{suffix}")
            })
        });
        if backup.as_deref() == Some(&*path) {
            return Err(Error::usage_hint(
                format!("the backup of `{shown}` would be the file itself"),
                "give a suffix such as .bak, or leave out --backup",
            ));
        }
        if let Some(into) = backup.as_deref().and_then(Path::parent)
            && !(into.is_dir() && is_writable(into))
        {
            return Err(Error::usage_hint(
                format!("there can be no backup in `{}`", into.display()),
                "the folder has to be there already",
            ));
        }
        Ok(Self {
            stamp: Stamp::of(&metadata),
            name: shown,
            backup,
            path,
        })
    }

    /// The file as the user named it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    fn is_as_it_was(&self) -> bool {
        fs::metadata(&self.path).is_ok_and(|metadata| Stamp::of(&metadata) == self.stamp)
    }

    fn keep_backup(&self) -> io::Result<()> {
        let Some(backup) = &self.backup else {
            return Ok(());
        };
        let staged = beside(backup);
        // Where there are no links, or the backup lies on another disk, it is a copy. It takes the
        // place of an older one only when it is there.
        let kept = fs::hard_link(&self.path, &staged)
            .or_else(|_| fs::copy(&self.path, &staged).map(drop))
            .and_then(|()| fs::rename(&staged, backup));
        if kept.is_err() {
            let _ = fs::remove_file(&staged);
        }
        kept
    }
}

/// Says of each whether it is the first of its file: `a` and `./a` are one, and so is a link to it.
/// Another hard link is a file of its own, since what takes a file's place takes one name alone.
///
/// # Errors
/// [`Error::Usage`] where a backup would take the place of another one, or of a file that is to be
/// replaced itself.
pub fn firsts(replacements: &[Replacement]) -> Result<Vec<bool>, Error> {
    let mut named = HashSet::new();
    let firsts: Vec<bool> = replacements
        .iter()
        .map(|replacement| named.insert(&replacement.path))
        .collect();
    let mut backups = HashSet::new();
    for (replacement, _) in replacements
        .iter()
        .zip(&firsts)
        .filter(|(_, first)| **first)
    {
        let Some(backup) = &replacement.backup else {
            continue;
        };
        let what = if named.contains(backup) {
            "a file that is to be replaced"
        } else if !backups.insert(backup) {
            "the backup of another file"
        } else {
            continue;
        };
        return Err(Error::usage_hint(
            format!("the backup of `{}` would be {what}", replacement.name),
            "give another suffix, or replace the files one after the other",
        ));
    }
    Ok(firsts)
}

/// A name that nothing has yet, in the folder of `path`.
fn beside(path: &Path) -> PathBuf {
    let base = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{base}.gptpipe-{:08x}", fastrand::u32(..)))
}

#[cfg(unix)]
fn is_writable(folder: &Path) -> bool {
    use rustix::fs::{Access, access};
    access(folder, Access::WRITE_OK | Access::EXEC_OK).is_ok()
}

#[cfg(not(unix))]
fn is_writable(folder: &Path) -> bool {
    fs::metadata(folder).is_ok_and(|metadata| !metadata.permissions().readonly())
}

/// What is being written in place of a file; it is gone unless it took that place.
#[derive(Debug)]
pub(super) struct Staged {
    file: File,
    path: PathBuf,
}

impl Staged {
    /// Begins beside the file.
    pub(super) fn begin(replacement: &Replacement) -> io::Result<Self> {
        let path = beside(&replacement.path);
        let mut options = File::options();
        options.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        Ok(Self {
            file: options.open(&path)?,
            path,
        })
    }

    pub(super) fn write(&mut self, text: &str) -> io::Result<()> {
        self.file.write_all(text.as_bytes())
    }

    /// Takes the file's place.
    pub(super) fn replace(self, replacement: &Replacement) -> io::Result<Replaced> {
        let metadata = fs::metadata(&replacement.path)?;
        #[cfg(unix)]
        {
            use std::os::unix::fs::{MetadataExt as _, fchown};
            // Only root may give a file away; the mode comes after it, since it loses bits by it.
            let _ = fchown(&self.file, Some(metadata.uid()), Some(metadata.gid()));
        }
        self.file.set_permissions(metadata.permissions())?;
        self.file.sync_all()?;
        if !replacement.is_as_it_was() {
            return Ok(Replaced::Changed);
        }
        replacement.keep_backup()?;
        fs::rename(&self.path, &replacement.path)?;
        Ok(Replaced::Whole)
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        // After the rename there is nothing of that name.
        let _ = fs::remove_file(&self.path);
    }
}

/// The error that ends a run whose file cannot be replaced.
#[must_use]
pub fn failed(name: &str, source: &io::Error) -> Error {
    Error::Replace {
        file: name.to_owned(),
        why: reason(source),
    }
}
