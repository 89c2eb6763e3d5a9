//! `pilot output`: brings a payload's output files home.

use super::text::clean;
use super::{Common, Failure, RETRY, Result, print, print_json};
use std::fs::{DirBuilder, OpenOptions, Permissions};
use std::io::{Read, Seek};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use tokio::io::AsyncWriteExt;
use uuid::Uuid;

/// Options of `pilot output`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    common: Common,
    /// Where to put the files [default: a directory named after the payload]
    #[arg(long, value_name = "DIR")]
    to: Option<PathBuf>,
    /// Payload id
    id: Uuid,
}

/// Carries the command out; prints the names of the files.
pub async fn run(args: Args) -> Result<u8> {
    let client = args.common.client()?;
    let to = args.to.unwrap_or_else(|| PathBuf::from(args.id.to_string()));
    let mut answer = client.patiently(RETRY, || client.output(args.id)).await?;
    let spool =
        tempfile::tempfile().map_err(|e| Failure::no(format!("cannot make a temporary file: {e}")))?;
    let mut writer = tokio::fs::File::from_std(spool);
    loop {
        let chunk = answer
            .chunk()
            .await
            .map_err(|e| Failure::unreachable(format!("the output was cut short: {e}; try again")))?;
        let Some(chunk) = chunk else { break };
        writer.write_all(&chunk).await.map_err(|e| Failure::no(format!("cannot keep the output: {e}")))?;
    }
    writer.flush().await.map_err(|e| Failure::no(format!("cannot keep the output: {e}")))?;
    let mut spool = writer.into_std().await;
    spool.rewind().map_err(|e| Failure::no(format!("cannot read the output back: {e}")))?;
    let names = unpack(spool, &to)?;
    if args.common.json {
        return print_json(&serde_json::json!({ "directory": to, "files": names }));
    }
    let lines = names.iter().map(|name| format!("{}\n", clean(&to.join(name).display().to_string())));
    print(&lines.collect::<String>())
}

/// Writes the plain files of the archive below `to`. Anything else in it, and names that lead elsewhere, are refused:
/// the archive was made on a machine that is not ours.
fn unpack(archive: impl Read, to: &Path) -> Result<Vec<PathBuf>> {
    let damaged = |e: std::io::Error| Failure::unreachable(format!("the output archive is damaged: {e}"));
    let mut archive = tar::Archive::new(archive);
    let mut names = Vec::new();
    std::fs::create_dir_all(to).map_err(|e| Failure::no(format!("cannot make {}: {e}", to.display())))?;
    for entry in archive.entries().map_err(damaged)? {
        let mut entry = entry.map_err(damaged)?;
        let name = entry.path().map_err(damaged)?.into_owned();
        let safe = name.to_str().and_then(|n| pilot_api::names::safe_name(n).ok());
        let Some(safe) = safe.filter(|_| entry.header().entry_type().is_file()) else {
            return Err(Failure::no(format!(
                "the output archive holds {name:?}, which is no plain file below the directory; nothing more is unpacked"
            )));
        };
        let mode = entry.header().mode().map_err(damaged)? & 0o777;
        write(&mut entry, &to.join(&safe), mode)
            .map_err(|e| Failure::no(format!("cannot write {}: {e}", to.join(&safe).display())))?;
        names.push(safe);
    }
    Ok(names)
}

fn write(from: &mut impl Read, path: &Path, mode: u32) -> std::io::Result<()> {
    if let Some(parent) = path.parent() {
        DirBuilder::new().recursive(true).create(parent)?;
    }
    let mut options = OpenOptions::new();
    let mut file =
        options.write(true).create(true).truncate(true).custom_flags(libc::O_NOFOLLOW).open(path)?;
    std::io::copy(from, &mut file)?;
    file.set_permissions(Permissions::from_mode(mode & 0o777 | 0o600))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn archive(name: &str, kind: tar::EntryType) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(if kind.is_file() { 2 } else { 0 });
        header.set_mode(0o4755);
        header.set_entry_type(kind);
        // The safe setter refuses what an attacker would write.
        header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
        if kind.is_symlink() {
            header.set_link_name("/etc/passwd").unwrap();
        }
        header.set_cksum();
        builder.append(&header, if kind.is_file() { &b"hi"[..] } else { &b""[..] }).unwrap();
        builder.into_inner().unwrap()
    }

    #[test]
    fn plain_files_arrive_without_special_bits() {
        let dir = tempfile::tempdir().unwrap();
        let to = dir.path().join("out");
        assert_eq!(
            unpack(archive("a/b", tar::EntryType::Regular).as_slice(), &to).unwrap(),
            [PathBuf::from("a/b")]
        );
        assert_eq!(std::fs::read(to.join("a/b")).unwrap(), b"hi");
        assert_eq!(std::fs::metadata(to.join("a/b")).unwrap().permissions().mode() & 0o7777, 0o755);
    }

    #[test]
    fn archives_that_reach_outside_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        for (name, kind) in [
            ("../evil", tar::EntryType::Regular),
            ("/tmp/evil", tar::EntryType::Regular),
            ("link", tar::EntryType::Symlink),
        ] {
            assert!(unpack(archive(name, kind).as_slice(), &dir.path().join("out")).is_err(), "{name}");
        }
        assert!(!dir.path().join("evil").exists());
    }
}
