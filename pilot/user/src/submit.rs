//! `pilot submit`: delegate, upload the input files, hand the payload in.

use super::callback::Listener;
use super::say::{note, print, print_json};
use super::wait::await_all;
use super::{Common, Failure, RETRY, Result, hints};
use futures_util::TryStreamExt;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use openssl::sha::Sha256;
use pilot_api::{
    DELEGATIONS, Factor, InputFile, MissingOutput, PayloadSpec, RawSpec, SignedChain, Submission, WarnSignal,
    output_pattern,
};
use pilot_client::{Client, duration};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{IsTerminal, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use uuid::Uuid;

/// Longest delegation; the user's proxy usually ends earlier.
const LIFETIME: Duration = Duration::from_secs(7 * 86_400);

/// Options of `pilot submit`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    common: Common,
    /// File to put into the working directory, under its own name; may be repeated
    #[arg(long, value_name = "F")]
    input: Vec<PathBuf>,
    /// Pattern of files to bring back, such as '*.root' or 'results/**'; may be repeated
    #[arg(long, value_name = "GLOB", value_parser = output_pattern)]
    output: Vec<String>,
    /// What it means when output files cannot all be brought home [ok: said only; fail: the payload has failed]
    #[arg(long, value_name = "ok|fail", value_parser = missing_output)]
    missing_output: Option<Missing>,
    /// Variable for the payload; may be repeated
    #[arg(long, value_name = "K=V", value_parser = variable)]
    env: Vec<(String, String)>,
    /// Submit once for each index; a payload finds its own in PILOT_ARRAY_INDEX
    #[arg(long, value_name = "A-B", value_parser = array)]
    array: Option<(u64, u64)>,
    /// Processor cores
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    cores: u32,
    /// Memory, such as 500M or 2G; a payload that uses more is ended
    #[arg(long, value_name = "SIZE", value_parser = size)]
    memory: Option<u64>,
    /// Room in the working directory, such as 500M or 20G; a payload that takes more is ended
    #[arg(long, value_name = "SIZE", value_parser = size)]
    disk: Option<u64>,
    /// Try a payload that used more memory than it may again with so many times as much, such as 2x
    #[arg(long, value_name = "FACTOR", value_parser = Factor::parse, requires = "memory")]
    retry_memory: Option<Factor>,
    /// The same for disk
    #[arg(long, value_name = "FACTOR", value_parser = Factor::parse, requires = "disk")]
    retry_disk: Option<Factor>,
    /// Longest run, such as 90s, 30m or 2h
    #[arg(long, value_name = "D", value_parser = duration)]
    walltime: Option<Duration>,
    /// Send the payload a signal so long before its walltime, or its batch slot, is over, such as 5m
    #[arg(long, value_name = "D", value_parser = duration)]
    warn: Option<Duration>,
    /// Which signal: USR1, USR2, INT, HUP or TERM; a payload that does not catch it dies of it
    #[arg(long, value_name = "SIGNAL", default_value = "USR1", value_parser = warn_signal, requires = "warn")]
    warn_signal: WarnSignal,
    /// Callback ports; unless told, none, or what the site gives by default
    #[arg(long, value_name = "N", default_value_t = 0)]
    ports: u16,
    /// URL that gets a POST, signed by the queue, at each change of the payload's state
    #[arg(long, value_name = "URL")]
    notify: Option<String>,
    /// Listen for these calls here until the end, on a port of GLOBUS_TCP_PORT_RANGE under the name GLOBUS_HOSTNAME, print what
    /// arrives, and exit with the payload's code
    #[arg(long, conflicts_with_all = ["notify", "wait"])]
    callback: bool,
    /// Wait for the end and exit with the payload's code
    #[arg(long)]
    wait: bool,
    /// Program and its arguments
    #[arg(required = true, last = true, value_name = "CMD")]
    command: Vec<String>,
}

/// Carries the command out; returns the exit code.
pub async fn run(args: Args) -> Result<u8> {
    let files = args.input.iter().map(|path| Local::read(path)).collect::<Result<Vec<_>>>()?;
    let listener = match args.callback {
        true => Some(Listener::open(|name| std::env::var(name).ok()).await?),
        false => None,
    };
    let spec = RawSpec {
        command: args.command,
        env: args.env.into_iter().collect::<BTreeMap<_, _>>(),
        inputs: files.iter().map(|f| f.input.clone()).collect(),
        outputs: args.output,
        missing_output: args.missing_output.unwrap_or_default().0,
        cores: args.cores,
        memory: args.memory,
        disk: args.disk,
        walltime: args.walltime.map(|d| d.as_secs()),
        warn: args.warn.map(|d| d.as_secs()),
        warn_signal: args.warn_signal,
        retry_memory: args.retry_memory,
        retry_disk: args.retry_disk,
        ports: args.ports,
        notify: listener.as_ref().map(|listener| listener.url().to_owned()).or(args.notify),
    };
    // The queue says the same; here nothing has been delegated and uploaded yet.
    let spec = PayloadSpec::parse(spec).map_err(|e| Failure::usage(e.to_string()))?.into_raw();
    let client = args.common.client()?;
    let delegation = delegate(&client, &args.common.connection.settings()?.proxy).await?;
    for file in &files {
        upload(&client, file).await?;
    }
    let signer = match &listener {
        Some(_) => Some(client.patiently(RETRY, || client.queue_certificate()).await?),
        None => None,
    };
    let id = Uuid::now_v7();
    let submission = Submission { id: Some(id), delegation, spec: spec.clone(), array: args.array };
    let submitted = client.submit(RETRY, &submission).await?;
    if args.common.json {
        print_json(&serde_json::json!({ "ids": submitted.ids, "array": args.array.map(|_| id) }))?;
    } else {
        let lines = submitted.ids.iter().map(|id| format!("{id}\n"));
        print(&lines.collect::<String>())?;
    }
    if args.array.is_some() {
        note(&format!("note: all {} are the array {id}", submitted.ids.len()));
    }
    hint(&client, &spec).await;
    if let (Some(listener), Some(signer)) = (listener, signer) {
        return listener.follow(&client, &signer, &submitted.ids, args.common.json).await;
    }
    if args.wait { await_all(&client, &submitted.ids, false).await } else { Ok(0) }
}

/// Says what will keep the payload from running. It has been handed in, so nothing that goes wrong here is a failure.
async fn hint(client: &Client, spec: &RawSpec) {
    if let Some(missing) = hints::missing_program(spec) {
        note(&format!("note: {missing}"));
    }
    if let Ok(pilots) = client.pilots().await
        && let Some(why) = hints::unsatisfied(spec, &pilots)
    {
        note(&format!("note: it waits: {why}"));
    }
}

/// Gives the queue a proxy of its own; the user's key stays here.
pub async fn delegate(client: &Client, proxy: &Path) -> Result<Uuid> {
    let credential = std::fs::read(proxy)
        .map_err(|e| Failure::usage(format!("cannot read the proxy {}: {e}", proxy.display())))?;
    // Before anything leaves: a proxy that reaches the queue, but not the worker node, would only fail there.
    delegation::check(&credential, DELEGATIONS).map_err(|e| refused(proxy, &e))?;
    let asked = client.new_delegation(RETRY).await?;
    let chain = delegation::sign(&asked.csr, &credential, LIFETIME, false);
    let chain = chain.map_err(|e| refused(proxy, &e))?;
    let chain = SignedChain { chain };
    client.patiently(RETRY, || client.sign_delegation(asked.id, &chain)).await?;
    Ok(asked.id)
}

fn refused(proxy: &Path, error: &delegation::Error) -> Failure {
    let remedy = match error {
        delegation::Error::PathLength { .. } => "",
        _ => "; run grid-proxy-init or voms-proxy-init",
    };
    Failure::usage(format!("cannot delegate with {}: {error}{remedy}", proxy.display()))
}

/// A file to be uploaded.
#[derive(Debug)]
struct Local {
    from: PathBuf,
    input: InputFile,
}

impl Local {
    fn read(from: &Path) -> Result<Self> {
        let fail = |reason: String| Failure::usage(format!("input file {}: {reason}", from.display()));
        let mut file = File::open(from).map_err(|e| fail(e.to_string()))?;
        let meta = file.metadata().map_err(|e| fail(e.to_string()))?;
        if !meta.is_file() {
            return Err(fail("is no plain file; pack a directory with tar first".to_owned()));
        }
        let name = from
            .file_name()
            .and_then(|n| n.to_str())
            .ok_or_else(|| fail("its name is not UTF-8".to_owned()))?;
        let (mut hash, mut size, mut buffer) = (Sha256::new(), 0, vec![0; 256 << 10]);
        loop {
            let length = file.read(&mut buffer).map_err(|e| fail(e.to_string()))?;
            if length == 0 {
                break;
            }
            hash.update(&buffer[..length]);
            size += length as u64;
        }
        let sha256 = hex::encode(hash.finish());
        let mode = meta.permissions().mode() & 0o777;
        Ok(Self { from: from.to_owned(), input: InputFile { path: name.to_owned(), sha256, size, mode } })
    }
}

async fn upload(client: &Client, file: &Local) -> Result<()> {
    let bar = bar(file);
    let put = || async {
        bar.set_position(0);
        let content = tokio::fs::File::open(&file.from).await;
        let content = content.map_err(|e| {
            pilot_client::ClientError::Credential(format!("input file {}: {e}", file.from.display()))
        })?;
        let counted = bar.clone();
        let stream = tokio_util::io::ReaderStream::with_capacity(content, 128 << 10);
        let stream = stream.inspect_ok(move |chunk| counted.inc(chunk.len() as u64));
        client.put_blob(&file.input.sha256, reqwest::Body::wrap_stream(stream)).await
    };
    client.patiently(RETRY, put).await?;
    bar.finish_and_clear();
    Ok(())
}

fn bar(file: &Local) -> ProgressBar {
    let hidden = !std::io::stderr().is_terminal();
    let target = if hidden { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() };
    let bar = ProgressBar::with_draw_target(Some(file.input.size), target);
    let style = ProgressStyle::with_template("{msg} {wide_bar} {bytes}/{total_bytes} {eta}");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar.with_message(super::text::clean(&file.input.path))
}

fn variable(text: &str) -> std::result::Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("write NAME=VALUE")?;
    pilot_api::check_variable(name, value)?;
    Ok((name.to_owned(), value.to_owned()))
}

/// The words of `--missing-output`.
#[derive(Debug, Clone, Copy, Default)]
struct Missing(MissingOutput);

fn missing_output(text: &str) -> std::result::Result<Missing, String> {
    match text {
        "ok" => Ok(Missing(MissingOutput::Ok)),
        "fail" => Ok(Missing(MissingOutput::Fail)),
        _ => Err("write ok or fail".to_owned()),
    }
}

fn warn_signal(text: &str) -> std::result::Result<WarnSignal, String> {
    let name = text.strip_prefix("SIG").unwrap_or(text);
    name.parse().map_err(|_| "write USR1, USR2, INT, HUP or TERM".to_owned())
}

fn array(text: &str) -> std::result::Result<(u64, u64), String> {
    let bounds = text.split_once('-').and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?)));
    bounds
        .filter(|(a, b)| a <= b)
        .ok_or_else(|| "write the first and the last index, such as 1-100".to_owned())
}

fn size(text: &str) -> std::result::Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let shift = match &text[digits.len()..] {
        "" => 0,
        "K" | "KiB" => 10,
        "M" | "MiB" => 20,
        "G" | "GiB" => 30,
        "T" | "TiB" => 40,
        _ => return Err("write a whole number and K, M, G or T (powers of 1024)".to_owned()),
    };
    let number = digits.parse::<u64>().ok().and_then(|n| n.checked_mul(1 << shift)).filter(|n| *n > 0);
    number.ok_or_else(|| "write a whole number and K, M, G or T, such as 500M".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_powers_of_1024() {
        assert_eq!((size("2G"), size("500M"), size("7")), (Ok(2 << 30), Ok(500 << 20), Ok(7)));
        for bad in ["", "G", "1.5G", "-1", "1P", "0", "99999999999T"] {
            assert!(size(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_warning_is_one_of_the_signals_that_can_be_caught() {
        assert_eq!(
            (warn_signal("SIGUSR2"), warn_signal("TERM")),
            (Ok(WarnSignal::Usr2), Ok(WarnSignal::Term))
        );
        for bad in ["KILL", "9", "usr1", ""] {
            assert!(warn_signal(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn arrays_go_upwards() {
        assert_eq!(array("1-3"), Ok((1, 3)));
        for bad in ["3", "3-1", "a-b", "-1-2", ""] {
            assert!(array(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_pilots_own_variables_cannot_be_set() {
        assert_eq!(variable("A=b=c"), Ok(("A".into(), "b=c".into())));
        for bad in ["A", "=x", "PILOT_SESSION=x", "X509_USER_PROXY=x", "GLOBUS_HOSTNAME=x"] {
            assert!(variable(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn patterns_stay_in_the_working_directory() {
        assert_eq!(output_pattern("out/**").unwrap(), "out/**");
        assert_eq!((output_pattern("dir/"), output_pattern("./x")), (Ok("dir".into()), Ok("x".into())));
        for bad in ["/etc/*", "../x", "a/../b", "a["] {
            assert!(output_pattern(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_local_file_is_described_by_its_content() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("in.txt");
        std::fs::write(&path, "abc").unwrap();
        let local = Local::read(&path).unwrap();
        assert_eq!((local.input.path.as_str(), local.input.size), ("in.txt", 3));
        assert_eq!(local.input.sha256, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert!(Local::read(dir.path()).is_err());
    }
}
