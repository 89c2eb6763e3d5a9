//! What the loop tells the writer: one line each, short enough for a pipe to take whole (`PIPE_BUF`).

use super::inspect::Inspected;
use policy::judge::NestedSign;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Something to write down or to do, for which the loop has no time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Message {
    /// A payload called glexec.
    Nested {
        /// Whether the call was stopped before it started.
        prevented: bool,
        /// Who.
        who: Inspected,
        /// The program, as the loop knows it; escaped.
        program: String,
    },
    /// A payload executes another program that is setuid root.
    SetuidRoot(Inspected),
    /// A payload executes a file of the same size as glexec: perhaps a copy.
    Lookalike(Inspected),
    /// Close the sessions whose supervisor is gone.
    CloseOrphans,
    /// Read the configuration again.
    Reload,
    /// A line for the log.
    Note(String),
}

/// Longest program name that is passed on, bytes.
const MAX_TEXT: usize = 960;
/// Signs in the order of their letters.
const SIGNS: [(NestedSign, char); 5] = [
    (NestedSign::NoNewPrivs, 'n'),
    (NestedSign::SessionAccount, 'a'),
    (NestedSign::SessionCgroup, 'c'),
    (NestedSign::SupervisorAncestor, 's'),
    (NestedSign::PayloadAccount, 'p'),
];

/// A path as text without control characters.
pub(super) fn path_text(path: &Path) -> String {
    record::text::printable(path.as_os_str().as_bytes(), MAX_TEXT)
}

impl Message {
    /// The line, with its end.
    pub(super) fn encode(&self) -> String {
        match self {
            Self::Nested { prevented, who, program } => {
                format!("nested\t{}\t{}\t{program}\n", u8::from(*prevented), encode_who(who))
            }
            Self::SetuidRoot(who) => format!("setuid\t{}\n", encode_who(who)),
            Self::Lookalike(who) => format!("lookalike\t{}\n", encode_who(who)),
            Self::CloseOrphans => "close-orphans\n".into(),
            Self::Reload => "reload\n".into(),
            Self::Note(text) => format!("note\t{}\n", record::text::printable(text.as_bytes(), MAX_TEXT)),
        }
    }

    /// The message of a line; `None` when it is none.
    pub(super) fn decode(line: &str) -> Option<Self> {
        let fields: Vec<&str> = line.split('\t').collect();
        match fields.as_slice() {
            ["nested", prevented, who @ .., program] => Some(Self::Nested {
                prevented: *prevented == "1",
                who: decode_who(who)?,
                program: (*program).to_owned(),
            }),
            ["setuid", who @ ..] => decode_who(who).map(Self::SetuidRoot),
            ["lookalike", who @ ..] => decode_who(who).map(Self::Lookalike),
            ["close-orphans"] => Some(Self::CloseOrphans),
            ["reload"] => Some(Self::Reload),
            ["note", text] => Some(Self::Note((*text).to_owned())),
            _ => None,
        }
    }
}

fn encode_who(who: &Inspected) -> String {
    let signs: String = SIGNS.iter().filter(|(sign, _)| who.signs.contains(sign)).map(|(_, c)| *c).collect();
    let session = who.session.as_deref().unwrap_or_default();
    format!("{}\t{}\t{}\t{signs}\t{session}", who.pid, who.uid, who.gid)
}

fn decode_who(fields: &[&str]) -> Option<Inspected> {
    let [pid, uid, gid, signs, session] = fields else { return None };
    let sign = |c: char| SIGNS.iter().find(|(_, letter)| *letter == c).map(|(sign, _)| *sign);
    Some(Inspected {
        pid: pid.parse().ok()?,
        uid: uid.parse().ok()?,
        gid: gid.parse().ok()?,
        signs: signs.chars().map(sign).collect::<Option<_>>()?,
        session: (!session.is_empty()).then(|| (*session).to_owned()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_survive_the_way() {
        let signs = vec![NestedSign::NoNewPrivs, NestedSign::SessionAccount, NestedSign::SessionCgroup];
        let known = Inspected { pid: 7, uid: 20_001, gid: 20_002, signs, session: Some("0190".into()) };
        let signs = vec![NestedSign::SupervisorAncestor, NestedSign::PayloadAccount];
        let unknown = Inspected { pid: 8, uid: 0, gid: 0, signs, session: None };
        let program = path_text(Path::new("/usr/sbin/gl\texec\n"));
        for message in [
            Message::Nested { prevented: true, who: known.clone(), program: program.clone() },
            Message::Nested { prevented: false, who: unknown.clone(), program },
            Message::SetuidRoot(known),
            Message::Lookalike(unknown),
            Message::CloseOrphans,
            Message::Reload,
            Message::Note("it was behind".into()),
        ] {
            let line = message.encode();
            assert_eq!(line.matches('\n').count(), 1);
            assert_eq!(Message::decode(line.trim_end_matches('\n')), Some(message));
        }
    }

    #[test]
    fn a_long_path_still_fits_into_one_write() {
        let who = Inspected {
            pid: i32::MAX,
            uid: u32::MAX,
            gid: u32::MAX,
            signs: vec![],
            session: Some("x".repeat(36)),
        };
        let program = path_text(Path::new(&"\u{1}".repeat(5000)));
        assert!(Message::Nested { prevented: true, who, program }.encode().len() <= 4096);
    }

    #[test]
    fn nonsense_is_no_message() {
        for line in ["", "nested", "nested\t1\tx", "setuid\t1\t2\t3\tz\t", "note", "other"] {
            assert_eq!(Message::decode(line), None, "{line:?}");
        }
    }
}
