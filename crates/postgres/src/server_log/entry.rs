//! The text of the log, taken apart.

/// `log_line_prefix` of a log that [`Reader`] reads: what begins with the one control character is an entry, and the
/// other separates its fields. Neither occurs in names, which PostgreSQL cleans before it logs them.
pub const PREFIX: &str = "\u{1e}%m\u{1f}%p\u{1f}%e\u{1f}%b\u{1f}%u\u{1f}%d\u{1f}%a\u{1f}%h\u{1f}";

const BEGIN: char = '\u{1e}';
const SEPARATOR: char = '\u{1f}';

/// Longer messages are cut: a statement may have megabytes.
const LONGEST: usize = 64 * 1024;

/// One message of the server with what belongs to it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    /// When, as the server prints it, with milliseconds; empty for output that is no message of its log.
    pub time: String,
    /// Process that wrote it.
    pub pid: Option<u32>,
    /// `DEBUG1` … `LOG`, `WARNING`, `ERROR`, `FATAL`, `PANIC`.
    pub severity: String,
    /// SQLSTATE; `00000` for none.
    pub state: Option<String>,
    /// Kind of process: `client backend`, `checkpointer`, …
    pub backend: Option<String>,
    /// Role of the session.
    pub user: Option<String>,
    /// Database of the session.
    pub database: Option<String>,
    /// `application_name` of the session.
    pub application: Option<String>,
    /// Host of the client.
    pub client: Option<String>,
    /// What it says.
    pub message: String,
    /// More of it.
    pub detail: Option<String>,
    /// What to do.
    pub hint: Option<String>,
    /// Where it happened.
    pub context: Option<String>,
    /// The statement under way.
    pub statement: Option<String>,
}

/// Puts entries together from pieces of the file.
#[derive(Debug, Default)]
pub struct Reader {
    /// A line that has not ended.
    partial: Vec<u8>,
    open: Option<Entry>,
    /// The part of the open entry that the next continuation line belongs to.
    part: String,
}

impl Reader {
    /// Takes a piece. With `end` there is no more for now: the server writes a message with all its parts at once, so
    /// what is complete is handed out.
    pub fn take(&mut self, piece: &[u8], end: bool) -> Vec<Entry> {
        let mut entries = Vec::new();
        let mut rest = piece;
        while let Some(length) = rest.iter().position(|byte| *byte == b'\n') {
            self.partial.extend_from_slice(&rest[..length]);
            rest = &rest[length + 1..];
            let line = String::from_utf8_lossy(&std::mem::take(&mut self.partial)).into_owned();
            self.line(&line, &mut entries);
        }
        if self.partial.len() < LONGEST {
            self.partial.extend_from_slice(rest);
        }
        if end && self.partial.is_empty() {
            entries.extend(self.open.take());
        }
        entries
    }

    fn line(&mut self, line: &str, entries: &mut Vec<Entry>) {
        if let (Some(text), Some(open)) = (line.strip_prefix('\t'), &mut self.open) {
            append(open, &self.part, "\n", text);
            return;
        }
        let Some(next) = parse(line) else {
            entries.extend(self.open.take());
            if !line.trim().is_empty() {
                // Of a library, or of a program that the server runs.
                let (severity, message) = ("LOG".to_owned(), line.to_owned());
                entries.push(Entry { severity, message, ..Entry::default() });
            }
            return;
        };
        let belongs = self.open.as_ref().is_some_and(|open| open.pid == next.pid);
        self.part.clone_from(&next.severity);
        match &mut self.open {
            Some(open) if belongs && is_part(&next.severity) => append(open, &self.part, "", &next.message),
            _ => entries.extend(self.open.replace(next)),
        }
    }
}

fn is_part(severity: &str) -> bool {
    matches!(severity, "DETAIL" | "HINT" | "CONTEXT" | "STATEMENT" | "QUERY" | "LOCATION" | "BACKTRACE")
}

fn append(entry: &mut Entry, part: &str, between: &str, text: &str) {
    let into = match part {
        "DETAIL" => entry.detail.get_or_insert_default(),
        "HINT" => entry.hint.get_or_insert_default(),
        "STATEMENT" => entry.statement.get_or_insert_default(),
        "CONTEXT" | "QUERY" | "LOCATION" | "BACKTRACE" => entry.context.get_or_insert_default(),
        _ => &mut entry.message,
    };
    if into.len() < LONGEST {
        into.push_str(between);
        into.push_str(text);
    }
}

fn parse(line: &str) -> Option<Entry> {
    let mut fields = line.strip_prefix(BEGIN)?.splitn(9, SEPARATOR);
    let time = fields.next()?.to_owned();
    let pid = fields.next()?.parse().ok();
    let mut named =
        || fields.next().map(|text| Some(text).filter(|t| !t.is_empty() && *t != "[unknown]").map(str::to_owned));
    let (state, backend, user, database, application, client) =
        (named()?, named()?, named()?, named()?, named()?, named()?);
    let (severity, message) = fields.next()?.split_once(":  ")?;
    let (severity, message) = (severity.to_owned(), message.to_owned());
    Some(Entry {
        time,
        pid,
        severity,
        state,
        backend,
        user,
        database,
        application,
        client,
        message,
        ..Entry::default()
    })
}

/// A piece of the log for people: the control characters of [`PREFIX`] become blanks.
pub(crate) fn readable(text: &str) -> String {
    text.replace(BEGIN, "").replace(SEPARATOR, " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "\u{1e}2026-11-21 16:00:00.123 UTC\u{1f}42\u{1f}42601\u{1f}client backend\u{1f}ann\u{1f}app\u{1f}\
                        [unknown]\u{1f}10.0.0.1\u{1f}";

    fn log() -> String {
        format!(
            "{HEAD}ERROR:  syntax error at or near \"FRM\" at character 10\n{HEAD}HINT:  look\n\tagain\n\
             {HEAD}STATEMENT:  SELECT *\n\t  FRM t\nlibrary says hello\n{HEAD}LOG:  next\n"
        )
    }

    fn check(entries: &[Entry]) {
        let [error, library, next] = entries else { panic!("{entries:?}") };
        assert_eq!((error.severity.as_str(), error.pid), ("ERROR", Some(42)));
        assert_eq!(error.time, "2026-11-21 16:00:00.123 UTC");
        assert_eq!((error.user.as_deref(), error.database.as_deref()), (Some("ann"), Some("app")));
        assert_eq!((error.application.as_deref(), error.client.as_deref()), (None, Some("10.0.0.1")));
        assert_eq!(error.state.as_deref(), Some("42601"));
        assert_eq!(error.hint.as_deref(), Some("look\nagain"));
        assert_eq!(error.statement.as_deref(), Some("SELECT *\n  FRM t"));
        assert_eq!((library.message.as_str(), library.pid), ("library says hello", None));
        assert_eq!(next.message, "next");
    }

    #[test]
    fn entries_have_all_their_parts() {
        check(&Reader::default().take(log().as_bytes(), true));
    }

    #[test]
    fn pieces_may_end_anywhere() {
        let log = log();
        for size in [1, 2, 7, 64] {
            let mut reader = Reader::default();
            let mut entries: Vec<Entry> =
                log.as_bytes().chunks(size).flat_map(|piece| reader.take(piece, false)).collect();
            entries.extend(reader.take(b"", true));
            check(&entries);
        }
    }

    #[test]
    fn garbage_is_passed_on() {
        let entries = Reader::default().take(b"\xff\xfe\n\x1ehalf\n\tx\n\n", true);
        assert_eq!(entries.len(), 3, "{entries:?}");
        assert_eq!(readable("\u{1e}a\u{1f}b"), "a b");
    }
}
