//! The machine as the decision sees it: files that root trusts, accounts, and the unprivileged helpers.

use crate::admit::accounts;
use crate::admit::audit::{self, Rule};
use crate::admit::cache::Cache;
use crate::admit::child;
use crate::admit::config::Config;
use crate::admit::verify;
use crate::failure::Failure;
use crate::session::store;
use helper::{MapReply, MapRequest};
use identity::{AccountName, Service, VerifiedIdentity};
use mapdir::Directory;
use nix::fcntl::Flock;
use policy::decide::{self, Answer, Call, Host, Stop, User};
use policy::judge::Permit;
use policy::pool::Wanted;
use policy::pool::lease::Taker;
use std::cell::RefCell;
use std::fs::File;
use std::path::Path;
use std::time::Duration;

/// Keeps the lease of a pool account from being ended, until the session that uses it is on record. Nothing for others.
#[must_use]
pub(crate) struct LeaseInUse {
    _lock: Option<Flock<File>>,
}

/// Decides about the call. `seen` becomes the identity, as soon as it is known, whatever the decision.
pub(crate) fn decide(
    config: &Config,
    call: &Call<'_>,
    seen: &mut Option<VerifiedIdentity>,
) -> Result<(VerifiedIdentity, Permit, LeaseInUse), Failure> {
    let machine = Machine { config, in_use: RefCell::default() };
    match decide::decide(&machine, call) {
        Ok(granted) => {
            *seen = Some(granted.identity.clone());
            Ok((granted.identity, granted.permit, LeaseInUse { _lock: machine.in_use.into_inner() }))
        }
        Err(refused) => {
            *seen = refused.identity;
            Err(refused.stop.into())
        }
    }
}

struct Machine<'a> {
    config: &'a Config,
    in_use: RefCell<Option<Flock<File>>>,
}

impl Host for Machine<'_> {
    fn trusted_file(&self, path: &Path) -> Result<Vec<u8>, Stop> {
        Ok(audit::read(path, Rule::FILE)?)
    }

    fn exists(&self, path: &Path) -> bool {
        audit::exists(path)
    }

    fn user_by_name(&self, name: &AccountName) -> Result<Option<User>, Stop> {
        accounts::by_name(name)
    }

    fn user_by_uid(&self, uid: u32) -> Result<Option<User>, Stop> {
        accounts::by_uid(uid)
    }

    fn group_id(&self, name: &str) -> Result<Option<u32>, Stop> {
        accounts::group_id(name)
    }

    fn groups_of(&self, user: &User) -> Result<Vec<u32>, Stop> {
        accounts::groups_of(user)
    }

    fn verify(&self, call: &Call<'_>) -> Result<VerifiedIdentity, Stop> {
        Ok(verify::verify(self.config, call)?)
    }

    /// Without root nothing is run and nothing is leased: a site that only logs learns which account it would be.
    fn lease(
        &self,
        wanted: &Wanted<'_>,
        fit: &mut dyn FnMut(&AccountName) -> Result<(), Stop>,
    ) -> Result<AccountName, Stop> {
        let directory = Directory::new(audit::open(wanted.dir, Rule::DIRECTORY)?);
        let taker = Taker { dir: &directory, wanted: *wanted };
        if !nix::unistd::geteuid().is_root() {
            return taker.preview(fit).map(|(account, _)| account);
        }
        let lock = store::using_leases().map_err(|e| Stop::Site(format!("the lock of leases: {e}")))?;
        *self.in_use.borrow_mut() = Some(lock);
        taker.take(fit)
    }

    fn ask(&self, _: &Call<'_>, service: Service, who: &VerifiedIdentity) -> Result<Answer, Stop> {
        Ok(ask_service(self.config, service, who)?)
    }
}

fn ask_service(config: &Config, service: Service, identity: &VerifiedIdentity) -> Result<Answer, Failure> {
    let section = config.policy.mapping.services.get(service.name());
    let section = section.ok_or_else(|| Failure::site(format!("[mapping.{}] is missing", service.name())))?;
    let host_credential =
        [audit::read(&section.cert, Rule::FILE)?, b"\n".to_vec(), audit::read(&section.key, Rule::FILE)?]
            .concat();
    let host = nix::unistd::gethostname().map_err(|e| Failure::site(format!("gethostname: {e}")))?;
    let request = MapRequest {
        service,
        endpoints: section.endpoints.clone(),
        host_credential,
        ca_dir: config.policy.trust.ca_dir.clone(),
        timeout: section.timeout,
        host: host.to_string_lossy().into_owned(),
        identity: identity.clone(),
    };
    let cache = Cache::for_mapping(&request, config.policy.mapping.cache_ttl);
    if let Some(Ok(MapReply::Mapped(mapping))) = cache.get().map(|frame| MapReply::decode(&frame)) {
        return Ok(Answer::Mapped(mapping));
    }
    let patience = section.timeout + Duration::from_secs(2);
    let answer = match child::exchange("glexec-map", config.child_ids, &request.encode(), patience) {
        Ok(answer) => answer,
        Err(failure) => return Ok(Answer::Unavailable(failure.reason())),
    };
    Ok(match MapReply::decode(&answer) {
        Ok(MapReply::Mapped(mapping)) => {
            cache.put(&answer, identity);
            Answer::Mapped(mapping)
        }
        Ok(MapReply::Denied(why)) => Answer::Denied(why),
        Ok(MapReply::Unavailable(why)) => Answer::Unavailable(why),
        Err(error) => Answer::Unavailable(format!("glexec-map: {error}")),
    })
}
