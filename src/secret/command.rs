//! A key from another program: `key-command = "pass show openai"`.
//!
//! The words are split as a shell would, and no shell runs them: what only a shell understands is refused and not
//! passed on as a word. What the program writes is the key and shown nowhere; what it says on standard error is
//! shown without keys. It gets this process's environment without the keys in it.

use std::io::{self, Read};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::timeout;
use zeroize::Zeroizing;

use crate::error::reason;
use crate::secret::redact::{Words, redact, without};
use crate::secret::secret::Secret;

/// The variable that names what `~/` stands for.
pub const HOME: &str = if cfg!(windows) { "USERPROFILE" } else { "HOME" };

/// How long the program may take. Some ask their user for a passphrase.
const PATIENCE: Duration = Duration::from_mins(2);

/// The most that is read of what the program writes, in bytes.
const LONGEST: u64 = 64 * 1024;

/// The most that is shown of what it says, in characters.
const LONGEST_SHOWN: usize = 300;

/// A program that writes a key.
#[derive(Clone, Debug)]
pub struct KeyCommand {
    words: Vec<String>,
    hidden: Vec<String>,
    patience: Duration,
}

/// What came of it.
#[derive(Debug)]
pub struct Written {
    /// The key.
    pub secret: Secret,
    /// What the program said on standard error, in one line without keys; empty for nothing.
    pub said: String,
}

impl KeyCommand {
    /// Reads a command; `home` is what `~/` stands for, and the variables named `hidden` are kept from the program.
    ///
    /// # Errors
    /// What in it only a shell understands, or that there is no word.
    pub fn parse(text: &str, home: Option<&str>, hidden: Vec<String>) -> Result<Self, String> {
        let words = split(text, home)?;
        if words.first().is_none_or(String::is_empty) {
            return Err("takes a program and its arguments, such as 'pass show openai'".to_owned());
        }
        Ok(Self {
            words,
            hidden,
            patience: PATIENCE,
        })
    }

    /// The program's name, for messages.
    #[must_use]
    pub fn program(&self) -> &str {
        self.words.first().map_or("", String::as_str)
    }

    /// Runs it, off the threads of the runtime. One that is not waited for any more is killed.
    ///
    /// # Errors
    /// Why there is no key, with what the program said.
    pub async fn run(&self) -> Result<Written, String> {
        let program = redact(self.program(), Words::Own);
        let mut child = self.command().spawn().map_err(|error| {
            format!(
                "the key command `{program}` cannot be run: {}",
                reason(&error)
            )
        })?;
        let stdout = child.stdout.take();
        let stderr = child.stderr.take();
        let running = Running(Arc::new(Mutex::new(child)));
        let (sender, receiver) = oneshot::channel();
        let child = Arc::clone(&running.0);
        thread::Builder::new()
            .name("key".to_owned())
            .spawn(move || {
                let said = thread::spawn(move || read(stderr));
                let key = read(stdout);
                let said = said.join().unwrap_or_default();
                let status = loop {
                    // Whoever kills it needs the lock, so it is not held while waiting.
                    match lock(&child).try_wait() {
                        Ok(None) => {}
                        Ok(Some(status)) => break Ok(status),
                        Err(error) => break Err(error),
                    }
                    thread::sleep(Duration::from_millis(2));
                };
                let _ = sender.send((key, said, status));
            })
            .map_err(|error| format!("the key command cannot be waited for: {}", reason(&error)))?;
        let Ok(ended) = timeout(self.patience, receiver).await else {
            let time = humantime::format_duration(self.patience);
            return Err(format!(
                "the key command `{program}` did not end within {time}"
            ));
        };
        let Ok((key, said, Ok(status))) = ended else {
            return Err(format!("the key command `{program}` cannot be waited for"));
        };
        // Only its first line is the key: `pass` keeps notes below.
        let text = Zeroizing::new(String::from_utf8_lossy(&key).into_owned());
        let secret = Secret::new(text.lines().next().unwrap_or_default().to_owned());
        let mut said = String::from_utf8_lossy(&said).into_owned();
        if let Some(secret) = &secret {
            said = without(&said, secret.expose()).unwrap_or(said);
        }
        let said = shown(&said);
        let says = if said.is_empty() {
            String::new()
        } else {
            format!(": {said}")
        };
        if !status.success() {
            let how = match status.code() {
                Some(code) => format!("status {code}"),
                None => "a signal".to_owned(),
            };
            return Err(format!(
                "the key command `{program}` ended with {how}{says}"
            ));
        }
        match secret {
            Some(secret) => Ok(Written { secret, said }),
            None => Err(format!("the key command `{program}` wrote no key{says}")),
        }
    }

    fn command(&self) -> Command {
        let mut command = Command::new(self.program());
        command
            .args(&self.words[1..])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        for name in &self.hidden {
            command.env_remove(name);
        }
        command
    }
}

/// Kills the program when nobody waits for it any more.
struct Running(Arc<Mutex<Child>>);

impl Drop for Running {
    fn drop(&mut self) {
        // One that has ended and was waited for is left alone by the library.
        let _ = lock(&self.0).kill();
    }
}

fn lock(child: &Mutex<Child>) -> std::sync::MutexGuard<'_, Child> {
    child.lock().unwrap_or_else(PoisonError::into_inner)
}

fn read(stream: Option<impl Read>) -> Zeroizing<Vec<u8>> {
    let mut bytes = Zeroizing::new(Vec::new());
    if let Some(stream) = stream {
        // What came before an error is told all the same.
        let mut stream = stream.take(LONGEST);
        let _ = stream.read_to_end(&mut bytes);
        let _ = io::copy(&mut stream.into_inner(), &mut io::sink());
    }
    bytes
}

/// The last words of what a program said, in one line.
fn shown(said: &str) -> String {
    let line = redact(said, Words::Foreign);
    let line = line.split_whitespace().collect::<Vec<_>>().join(" ");
    let length = line.chars().count();
    if length <= LONGEST_SHOWN {
        return line;
    }
    let rest: String = line.chars().skip(length - LONGEST_SHOWN).collect();
    format!("…{rest}")
}

/// Splits a command into words as a shell does (POSIX, Shell Command Language, 2.2 Quoting).
fn split(text: &str, home: Option<&str>) -> Result<Vec<String>, String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match (quote, c) {
            (Some(q), _) if c == q => quote = None,
            (Some('\''), _) => word.get_or_insert_default().push(c),
            (Some(_), '\\') if matches!(chars.peek(), Some('"' | '\\' | '$' | '`')) => {
                word.get_or_insert_default().extend(chars.next());
            }
            (_, '$' | '`') => return Err(shell_only(c)),
            (Some(_), _) => word.get_or_insert_default().push(c),
            (None, '\'' | '"') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            // On Windows it parts the names of a path.
            (None, '\\') if !cfg!(windows) => match chars.next() {
                Some(c) => word.get_or_insert_default().push(c),
                None => return Err("ends with a backslash".to_owned()),
            },
            (None, '|' | '&' | ';' | '<' | '>' | '(' | ')' | '*' | '?') => {
                return Err(shell_only(c));
            }
            (None, '~') if word.is_none() => match (home, chars.peek()) {
                (Some(home), None | Some('/')) => word = Some(home.to_owned()),
                _ => return Err(shell_only(c)),
            },
            (None, c) if c.is_whitespace() => words.extend(word.take()),
            (None, c) => word.get_or_insert_default().push(c),
        }
    }
    if let Some(quote) = quote {
        return Err(format!("has a quote `{quote}` that does not end"));
    }
    words.extend(word);
    Ok(words)
}

fn shell_only(c: char) -> String {
    format!("no shell runs it, so `{c}` needs quotes, or the whole `sh -c '…'`")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Result<Vec<String>, String> {
        split(text, Some("/home/me"))
    }

    fn run(text: &str) -> Result<Written, String> {
        let command = KeyCommand::parse(text, None, vec!["HOME".to_owned()]).unwrap();
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
            .block_on(command.run())
    }

    #[test]
    fn splits_words_as_a_shell_does() {
        assert_eq!(
            words("pass show openai").unwrap(),
            ["pass", "show", "openai"]
        );
        assert_eq!(
            words(r#" op  read 'op://a b/c' "d\"e$" "#.replace('$', "").as_str()).unwrap(),
            ["op", "read", "op://a b/c", "d\"e"]
        );
        assert_eq!(words(r"a\ b '' c'd'e").unwrap(), ["a b", "", "cde"]);
        assert_eq!(words("~/bin/key a~b").unwrap(), ["/home/me/bin/key", "a~b"]);
        assert_eq!(words(r"sh -c 'a | b; $c'").unwrap()[2], "a | b; $c");
    }

    #[test]
    fn what_only_a_shell_understands_is_refused() {
        for text in [
            "pass show x | head -n1",
            "a && b",
            "a; b",
            "a > b",
            "echo $KEY",
            "echo \"$KEY\"",
            "a `b`",
            "a $(b)",
            "cat ~other/x",
            "ls *.txt",
            "a 'b",
            "a \"b",
            "a\\",
        ] {
            assert!(words(text).is_err(), "{text}");
        }
        assert!(KeyCommand::parse("  ", None, Vec::new()).is_err());
        assert!(KeyCommand::parse("''", None, Vec::new()).is_err());
    }

    #[cfg(unix)]
    #[test]
    fn the_first_line_is_the_key() {
        let written = run("printf 'the-key\\nuser: me\\n'").unwrap();
        assert_eq!(written.secret.expose(), "the-key");
        assert_eq!(written.said, "");
    }

    #[cfg(unix)]
    #[test]
    fn a_failure_is_told_without_what_was_written() {
        let said =
            run("sh -c 'echo canary-0123456789; echo no such entry canary-0123456789 >&2; exit 3'")
                .unwrap_err();
        assert!(
            said.contains("ended with status 3: no such entry [redacted]"),
            "{said}"
        );
        assert!(
            run("sh -c 'echo > /dev/null'")
                .unwrap_err()
                .contains("wrote no key")
        );
        assert!(
            run("no-such-program-here x")
                .unwrap_err()
                .contains("cannot be run")
        );
        assert!(
            run("sh -c 'kill -9 $$'")
                .unwrap_err()
                .contains("ended with a signal")
        );
    }

    #[cfg(unix)]
    #[test]
    fn hidden_variables_are_not_handed_on() {
        assert_eq!(
            run("sh -c 'echo \"[$HOME]\"'").unwrap().secret.expose(),
            "[]"
        );
    }

    #[cfg(unix)]
    #[test]
    fn one_that_does_not_end_is_killed() {
        let mut command = KeyCommand::parse("sleep 600", None, Vec::new()).unwrap();
        command.patience = Duration::from_millis(50);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let error = runtime.block_on(command.run()).unwrap_err();
        assert!(error.contains("did not end within 50ms"), "{error}");
    }
}
