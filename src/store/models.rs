//! The names of a profile's models as its server listed them, kept for completions: nobody wants to
//! wait for a network when a key is pressed.
//!
//! One file for each profile, a name a line. It is rewritten whenever the server is asked anyhow.

use std::fmt::Write as _;
use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use crate::store::file;

/// Names beyond this many are left out: nobody reads them.
const MOST: usize = 2000;

/// Bytes of a file that are read at most.
const LONGEST: u64 = 1 << 20;

/// Keeps the names of a profile's models in `folder`, in place of those before. A name with
/// characters that mean something to a shell is left out.
///
/// # Errors
/// What the system said; nothing of what was there is lost then.
pub fn store_models(folder: &Path, profile: &str, names: &[String]) -> io::Result<()> {
    file::make_private_folder(folder)?;
    let path = path(folder, profile);
    let staged = file::beside(&path, &format!(".{}", std::process::id()));
    let names = names.iter().filter(|name| is_plain(name)).take(MOST);
    let lines: String = names.flat_map(|name| [name.as_str(), "\n"]).collect();
    // What a process of the same number left behind.
    let _ = fs::remove_file(&staged);
    file::make_private(&staged)?;
    let written = fs::File::options()
        .write(true)
        .open(&staged)
        .and_then(|mut file| file.write_all(lines.as_bytes()))
        .and_then(|()| fs::rename(&staged, &path));
    if written.is_err() {
        let _ = fs::remove_file(&staged);
    }
    written
}

/// The names that are kept; none where nothing can be read.
#[must_use]
pub fn read_models(folder: &Path, profile: &str) -> Vec<String> {
    let text = fs::metadata(path(folder, profile))
        .ok()
        .filter(|metadata| metadata.is_file() && metadata.len() <= LONGEST)
        .and_then(|_| fs::read_to_string(path(folder, profile)).ok())
        .unwrap_or_default();
    let lines = text.lines().filter(|name| is_plain(name)).take(MOST);
    lines.map(str::to_owned).collect()
}

/// Whether a name can stand on a command line as it is: a server's words are put there.
#[must_use]
pub fn is_plain(name: &str) -> bool {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "._:/@+-".contains(c);
    !name.is_empty() && name.len() <= 200 && !name.starts_with('-') && name.chars().all(is_plain)
}

/// The file of a profile, whose name may hold anything.
fn path(folder: &Path, profile: &str) -> PathBuf {
    let mut name = String::new();
    for (at, byte) in profile.bytes().enumerate() {
        let is_plain = byte.is_ascii_alphanumeric() || b"_-".contains(&byte);
        if is_plain || (byte == b'.' && at > 0) {
            name.push(char::from(byte));
        } else {
            // Writing to a string cannot fail.
            let _ = write!(name, "%{byte:02X}");
        }
    }
    folder.join(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_back_for_their_profile_alone() {
        let folder = std::env::temp_dir().join(format!("gptpipe-models-{}", std::process::id()));
        let names = |names: &[&str]| -> Vec<String> { names.iter().map(|&n| n.into()).collect() };
        assert!(read_models(&folder, "ollama").is_empty());
        store_models(&folder, "ollama", &names(&["old"])).unwrap();
        let listed = names(&[
            "qwen3:8b",
            "hf.co/a/b:Q4",
            "$(reboot)",
            "two words",
            "-x",
            "",
        ]);
        store_models(&folder, "ollama", &listed).unwrap();
        store_models(&folder, "../team a", &names(&["x"])).unwrap();
        assert_eq!(read_models(&folder, "ollama"), ["qwen3:8b", "hf.co/a/b:Q4"]);
        assert_eq!(read_models(&folder, "../team a"), ["x"]);
        let mut files: Vec<String> = fs::read_dir(&folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        files.sort();
        assert_eq!(files, ["%2E.%2Fteam%20a", "ollama"]);
        fs::remove_dir_all(folder).unwrap();
    }
}
