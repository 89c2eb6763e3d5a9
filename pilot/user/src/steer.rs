//! `pilot cancel`, `hold`, `release`: steering payloads.

use super::say::{note, print, print_json};
use super::select::Selector;
use super::{Common, Failure, RETRY, Result, submit};
use pilot_api::{Payload, PayloadState, Release, VariantArray};
use pilot_client::{Client, ClientError, Which};
use uuid::Uuid;

/// Options of `pilot cancel`.
#[derive(Debug, clap::Args)]
pub struct CancelArgs {
    #[command(flatten)]
    common: Common,
    /// All of your payloads that have not ended
    #[arg(long, conflicts_with_all = ["state", "ids"])]
    all: bool,
    /// All of your payloads in this state; may be repeated
    #[arg(long, value_name = "STATE", conflicts_with = "ids")]
    state: Vec<PayloadState>,
    /// Ids of payloads or arrays, their beginnings, or `last`
    #[arg(required_unless_present_any = ["all", "state"], value_name = "ID")]
    ids: Vec<Selector>,
}

/// `pilot cancel`.
pub async fn cancel(args: CancelArgs) -> Result<u8> {
    let client = args.common.client()?;
    let mut round = Round::default();
    let ids = if args.ids.is_empty() {
        let chosen = |state: &PayloadState| !state.is_final() && (args.all || args.state.contains(state));
        let states: Vec<_> = PayloadState::VARIANTS.iter().copied().filter(chosen).collect();
        // All states would be meant by none.
        match states.is_empty() {
            true => Vec::new(),
            false => client.listed_all(RETRY, &Which { states, ..Which::default() }, |p| p.id).await?,
        }
    } else {
        round.ids(&client, &args.ids).await?
    };
    if ids.is_empty() && round.worst == 0 {
        note("there is nothing to cancel");
    }
    for id in ids {
        round.take(id, client.patiently(RETRY, || client.wish(id, "cancel")).await)?;
    }
    round.tell(args.common.json, |p| match p.state {
        PayloadState::Killed => "cancelled".to_owned(),
        state => format!("{state}: its pilot has been asked to end it"),
    })
}

/// Options of `pilot hold`.
#[derive(Debug, clap::Args)]
pub struct HoldArgs {
    #[command(flatten)]
    common: Common,
    /// Ids of payloads or arrays, their beginnings, or `last`
    #[arg(required = true, value_name = "ID")]
    ids: Vec<Selector>,
}

/// `pilot hold`.
pub async fn hold(args: HoldArgs) -> Result<u8> {
    let client = args.common.client()?;
    let mut round = Round::default();
    for id in round.ids(&client, &args.ids).await? {
        round.take(id, client.patiently(RETRY, || client.wish(id, "hold")).await)?;
    }
    round.tell(args.common.json, |p| p.state.to_string())
}

/// Options of `pilot release`.
#[derive(Debug, clap::Args)]
pub struct ReleaseArgs {
    #[command(flatten)]
    ids: HoldArgs,
    /// Keep the proxy that the queue has instead of delegating a new one
    #[arg(long)]
    keep_proxy: bool,
}

/// `pilot release`: held payloads wait again, by default with a fresh proxy, since an old one is what most are held for.
pub async fn release(args: ReleaseArgs) -> Result<u8> {
    let client = args.ids.common.client()?;
    let mut round = Round::default();
    let ids = round.ids(&client, &args.ids.ids).await?;
    let proxy = args.ids.common.connection.settings()?.proxy;
    for id in ids {
        let delegation = if args.keep_proxy { None } else { Some(submit::delegate(&client, &proxy).await?) };
        let release = Release { delegation };
        round.take(id, client.patiently(RETRY, || client.release(id, &release)).await)?;
    }
    round.tell(args.ids.common.json, |p| p.state.to_string())
}

/// One command for several payloads. It goes on after a refusal, so that one finished payload does not save the others.
#[derive(Default)]
struct Round {
    done: Vec<Payload>,
    worst: u8,
}

impl Round {
    /// Looks the payloads up; those that cannot be found are told and count as refused.
    async fn ids(&mut self, client: &Client, selectors: &[Selector]) -> Result<Vec<Uuid>> {
        let mut ids = Vec::new();
        for selector in selectors {
            match selector.ids(client).await {
                Ok(found) => ids.extend(found),
                Err(failure) if failure.code == 1 => self.refused(&failure.text),
                Err(failure) => return Err(failure),
            }
        }
        Ok(ids)
    }

    /// Notes what became of one payload; only a queue that does not answer ends the round.
    fn take(&mut self, id: Uuid, answer: std::result::Result<Payload, ClientError>) -> Result<()> {
        match answer {
            Ok(payload) => self.done.push(payload),
            Err(e) if e.status().is_some() => self.refused(&format!("{id}: {e}")),
            Err(e) => {
                let not_asked = format!("{id}: {e}");
                return Err(Failure { text: not_asked, code: e.exit_code() });
            }
        }
        Ok(())
    }

    fn refused(&mut self, text: &str) {
        note(text);
        self.worst = 1;
    }

    /// Says what was done, one line for each payload.
    fn tell(self, json: bool, done: impl Fn(&Payload) -> String) -> Result<u8> {
        if json {
            print_json(&self.done)?;
        } else {
            let lines = self.done.iter().map(|p| format!("{} {}\n", p.id, done(p)));
            print(&lines.collect::<String>())?;
        }
        Ok(self.worst)
    }
}
