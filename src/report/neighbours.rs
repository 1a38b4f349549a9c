//! Who else uses the terminal: the other processes of the same job.
//!
//! The processes of a pipeline are one process group (POSIX, "Job Control"), and so are those that
//! xargs starts. Of several gptpipes among them only the one that started last draws, which is the
//! last of a pipeline; and none draws while a pager has the screen.

/// Programs that take the whole terminal.
#[cfg(target_os = "linux")]
const PAGERS: [&str; 8] = [
    "less", "more", "most", "vim", "view", "nvim", "fzf", "pager",
];

/// A process of the job.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(
    not(target_os = "linux"),
    expect(dead_code, reason = "there is no /proc")
)]
struct Process {
    id: u32,
    name: String,
    group: u32,
    /// When it started, in clock ticks since the machine did.
    began: u64,
}

/// Whether this process may draw on the terminal that its job has. Where that cannot be found out,
/// it may.
#[must_use]
pub(super) fn may_draw() -> bool {
    #[cfg(target_os = "linux")]
    {
        let own = std::process::id();
        let all = processes();
        match all.iter().find(|process| process.id == own) {
            Some(own) => is_last(own, &all),
            None => true,
        }
    }
    #[cfg(not(target_os = "linux"))]
    true
}

/// Whether no other process of the job has a better claim to the terminal.
#[cfg(target_os = "linux")]
fn is_last(own: &Process, all: &[Process]) -> bool {
    !all.iter()
        .filter(|other| other.group == own.group && other.id != own.id)
        .any(|other| {
            PAGERS.contains(&other.name.as_str())
                || other.name == own.name && (other.began, other.id) > (own.began, own.id)
        })
}

/// All processes that can be seen (proc(5)).
#[cfg(target_os = "linux")]
fn processes() -> Vec<Process> {
    let Ok(folder) = std::fs::read_dir("/proc") else {
        return Vec::new();
    };
    folder
        .flatten()
        .filter(|entry| {
            let name = entry.file_name();
            name.as_encoded_bytes().iter().all(u8::is_ascii_digit)
        })
        .filter_map(|entry| parse(&std::fs::read_to_string(entry.path().join("stat")).ok()?))
        .collect()
}

/// Reads `/proc/PID/stat`: the name stands in brackets and may have brackets itself.
#[cfg(target_os = "linux")]
fn parse(stat: &str) -> Option<Process> {
    let (id, rest) = stat.split_once(" (")?;
    let (name, rest) = rest.rsplit_once(") ")?;
    let mut fields = rest.split(' ');
    // After the name: state, parent, group; what is waited for ends quickly and draws nothing.
    if fields.next()? == "Z" {
        return None;
    }
    Some(Process {
        id: id.parse().ok()?,
        name: name.to_owned(),
        group: fields.nth(1)?.parse().ok()?,
        began: fields.nth(16)?.parse().ok()?,
    })
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn reads_what_the_system_says_of_this_process() {
        let own = std::process::id();
        let all = processes();
        let own = all.iter().find(|process| process.id == own).unwrap();
        assert!(own.began > 0 && own.group > 0);
        let odd = "7 (a) (b) c) S 1 5 5 0 -1 4194304 1 0 0 0 2 3 4 5 20 0 1 0 99 1 1";
        let process = Process {
            id: 7,
            name: "a) (b) c".to_owned(),
            group: 5,
            began: 99,
        };
        assert_eq!(parse(odd), Some(process));
        assert_eq!(parse(&odd.replace(" S ", " Z ")), None);
    }

    #[test]
    fn the_last_of_a_job_draws_unless_there_is_a_pager() {
        let process = |id, name: &str, group, began| Process {
            id,
            name: name.to_owned(),
            group,
            began,
        };
        let first = process(10, "gptpipe", 1, 100);
        let second = process(11, "gptpipe", 1, 100);
        let other = process(12, "gptpipe", 2, 200);
        let jq = process(13, "jq", 1, 300);
        let all = [first.clone(), second.clone(), other.clone(), jq];
        assert!(!is_last(&first, &all));
        assert!(is_last(&second, &all));
        assert!(is_last(&other, &all));
        let less = process(14, "less", 1, 50);
        assert!(!is_last(&second, &[second.clone(), less]));
    }
}
