//! A damaged file is set aside, not deleted: it may hold replies that cost money.
//!
//! Damage is often met in the middle of a run, where nothing can be done about it. Then a note is
//! left beside the file, which says which file is meant, and the next process that opens it sets it
//! aside. Moving happens under the lock of the folder, with a last look whether the file is still
//! the one that was found damaged: it may be the fresh one that another process just made.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use crate::store::file::{self, Found, Identity};
use crate::store::schema::Kind;
use crate::store::trouble::Refusal;

/// What SQLite keeps beside a file.
pub(super) const COMPANIONS: [&str; 3] = ["-wal", "-shm", "-journal"];

/// How many damaged files are kept.
const KEPT: usize = 3;

/// Stands between the file's name and the time in the name of a file set aside.
const ASIDE: &str = ".damaged-";

/// Stands after the file's name in the name of the note.
const NOTE: &str = ".is-damaged";

/// What every SQLite file begins with.
const MAGIC: &[u8] = b"SQLite format 3\0";

/// Where the header has the `application_id`.
const APPLICATION_AT: usize = 68;

/// Leaves a note that this file is damaged. Where that fails, the next run finds out by itself.
pub(super) fn condemn(path: &Path, identity: Identity) {
    let note = file::beside(path, NOTE);
    if file::make_private(&note).is_ok() {
        let _ = fs::write(&note, text(identity));
    }
}

/// Whether there is a note on this file. A note on another, which is gone, is removed.
pub(super) fn is_condemned(path: &Path, identity: Identity) -> bool {
    let note = file::beside(path, NOTE);
    let Ok(found) = fs::read(&note) else {
        return false;
    };
    if found == text(identity).as_bytes() {
        return true;
    }
    let _ = fs::remove_file(&note);
    false
}

/// Removes the note, whichever file it is on.
pub(super) fn forget(path: &Path) -> io::Result<()> {
    remove(&file::beside(path, NOTE))
}

fn text(identity: Identity) -> String {
    format!("{} {}\n", identity.device, identity.inode)
}

/// Whether a file that cannot be used is ours to move.
pub(super) fn may_set_aside(kind: &Kind, path: &Path, refusal: &Refusal, is_named: bool) -> bool {
    match refusal {
        Refusal::Damaged => !is_named || is_surely_ours(kind, path),
        // Nothing else belongs at the default place.
        Refusal::Foreign => !is_named,
        Refusal::Newer | Refusal::Failed(_) => false,
    }
}

/// Opening it takes away what locks this process has on it; of a damaged file they protect nothing.
fn is_surely_ours(kind: &Kind, path: &Path) -> bool {
    let mut header = [0; APPLICATION_AT + 4];
    File::open(path)
        .and_then(|mut file| file.read_exact(&mut header))
        .is_ok_and(|()| {
            header.starts_with(MAGIC) && header.ends_with(&kind.application.to_be_bytes())
        })
}

/// Moves the file and its companions out of the way and says where it is now; None if it is gone
/// already.
pub(super) fn set_aside(
    kind: &Kind,
    path: &Path,
    identity: Identity,
    seconds: i64,
) -> Result<Option<PathBuf>, String> {
    let (noun, shown) = (kind.noun, path.display());
    let Some(_lock) = file::lock(path) else {
        return Err(format!(
            "the {noun} `{shown}` is damaged, and its folder cannot be locked to set it aside"
        ));
    };
    if file::find(kind, path)? != Found::File(identity) {
        return Ok(None);
    }
    let aside = (0..1000)
        .map(|later| file::beside(path, &format!("{ASIDE}{}", seconds.saturating_add(later))))
        .find(|aside| !aside.exists())
        .ok_or_else(|| format!("the {noun} `{shown}` is damaged, and too many were already"))?;
    // The file goes first: who opens the old file and a new log then sees that it is gone.
    fs::rename(path, &aside).map_err(|error| {
        let reason = crate::error::reason(&error);
        format!("the {noun} `{shown}` is damaged and cannot be set aside: {reason}")
    })?;
    for suffix in COMPANIONS {
        // Most are not there.
        let _ = fs::rename(file::beside(path, suffix), file::beside(&aside, suffix));
    }
    let _ = forget(path);
    let aside_files = set_aside_files(path);
    for old in aside_files.iter().rev().skip(KEPT) {
        let _ = remove_all(old);
    }
    Ok(Some(aside))
}

/// The files that were set aside, the oldest first.
pub(super) fn set_aside_files(path: &Path) -> Vec<PathBuf> {
    let Some(name) = path.file_name() else {
        return Vec::new();
    };
    let prefix = format!("{}{ASIDE}", name.to_string_lossy());
    let mut files: Vec<(u64, PathBuf)> = fs::read_dir(file::folder(path))
        .into_iter()
        .flatten()
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let name = entry.file_name();
            // Companions end otherwise.
            let time = name.to_str()?.strip_prefix(&prefix)?.parse().ok()?;
            Some((time, entry.path()))
        })
        .collect();
    files.sort();
    files.into_iter().map(|(_, file)| file).collect()
}

/// Removes a file and its companions.
pub(super) fn remove_all(path: &Path) -> io::Result<()> {
    remove(path)?;
    remove_companions(path)
}

/// Removes what SQLite keeps beside a file.
pub(super) fn remove_companions(path: &Path) -> io::Result<()> {
    COMPANIONS
        .iter()
        .try_for_each(|suffix| remove(&file::beside(path, suffix)))
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
