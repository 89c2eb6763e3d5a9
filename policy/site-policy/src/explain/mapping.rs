//! From an identity to an account: the site's sources in their order, then `passwd(5)`.

use super::files::SiteFiles;
use super::steps::Scene;
use super::{Play, Stop};
use crate::{accounts, child};
use helper::{MapReply, MapRequest};
use identity::{Account, AccountName, Mapping, Service, VerifiedIdentity};
use nix::unistd::{Group, User};
use policy::file::MapSource;
use policy::judge::Denial;
use policy::mapfile::Mapfile;
use std::path::Path;

const STEP: &str = "mapping";

/// The account that a source named, as this host knows it.
pub(super) struct Found {
    pub(super) account: Account,
    pub(super) source: MapSource,
}

/// Asks the sources in turn; the first one that knows the user decides.
pub(super) fn find(scene: &Scene<'_>, identity: &VerifiedIdentity, play: &mut Play) -> Result<Found, Stop> {
    for source in &scene.policy.mapping.order {
        if let Some(mapping) = ask(scene, *source, identity)? {
            let named = mapping.account.clone().or(mapping.uid.map(|uid| format!("uid {uid}")));
            play.passed(STEP, format!("{source} names {}", named.unwrap_or_default()));
            return Ok(Found { account: resolve(&mapping)?, source: *source });
        }
        play.passed(STEP, format!("{source} does not know the user; the next source is asked"));
    }
    let why = format!("no mapping source knows {}", identity.subject);
    Err(Stop::denial(STEP, &Denial::NotMapped(why)))
}

/// Reads and parses a map or ban file.
pub(super) fn mapfile(files: SiteFiles, step: &'static str, path: &Path) -> Result<Mapfile, Stop> {
    let text = files.text(step, path)?;
    Mapfile::parse(&text)
        .map_err(|e| Stop::site(step, format!("{}:{}: {}", path.display(), e.line, e.reason)))
}

fn ask(scene: &Scene<'_>, source: MapSource, identity: &VerifiedIdentity) -> Result<Option<Mapping>, Stop> {
    let files = &scene.policy.mapping;
    let found = match source {
        MapSource::GridMapfile => {
            mapfile(scene.files, STEP, &files.grid_mapfile)?.account_of_dn(&identity.subject)
        }
        MapSource::VomsMapfile => {
            mapfile(scene.files, STEP, &files.voms_mapfile)?.account_of_fqans(identity.fqans())
        }
        MapSource::Service(service) => return ask_service(scene, service, identity).map(Some),
    };
    let named = found.transpose().map_err(|e| Stop::site(STEP, format!("{source}: {e}")))?;
    Ok(named.map(|name| Mapping { account: Some(name.into()), ..Mapping::default() }))
}

fn ask_service(scene: &Scene<'_>, service: Service, identity: &VerifiedIdentity) -> Result<Mapping, Stop> {
    let section = scene.policy.mapping.services.get(service.name());
    let section =
        section.ok_or_else(|| Stop::site(STEP, format!("[mapping.{}] is missing", service.name())))?;
    let host_credential =
        [scene.files.bytes(STEP, &section.cert)?, b"\n".to_vec(), scene.files.bytes(STEP, &section.key)?]
            .concat();
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname");
    let request = MapRequest {
        service,
        endpoints: section.endpoints.clone(),
        host_credential,
        ca_dir: scene.policy.trust.ca_dir.clone(),
        timeout: section.timeout,
        host: host.map_or_else(|_| "localhost".to_owned(), |h| h.trim().to_owned()),
        identity: identity.clone(),
    };
    let denial = match child::map(&scene.args.places.libexec, &request) {
        Ok(MapReply::Mapped(mapping)) => return Ok(mapping),
        Ok(MapReply::Denied(why)) => Denial::NotMapped(format!("{} says no: {why}", service.name())),
        Ok(MapReply::Unavailable(why)) | Err(why) => Denial::MappingUnavailable(why),
    };
    Err(Stop::denial(STEP, &denial))
}

/// The account that a mapping means; name and numbers must agree with this host.
fn resolve(mapping: &Mapping) -> Result<Account, Stop> {
    let denied = |denial: Denial| Stop::denial("account", &denial);
    let user = look_up(mapping)?;
    let mut account = accounts::account(&user).map_err(|why| Stop::site("account", why))?;
    if mapping.account.as_deref().is_some_and(|wanted| wanted != account.name.as_str()) {
        return Err(denied(Denial::AccountMismatch(format!(
            "uid {} belongs to {}",
            account.uid, account.name
        ))));
    }
    if mapping.uid.is_some_and(|wanted| wanted != account.uid) {
        return Err(denied(Denial::AccountMismatch(format!("{} has uid {}", account.name, account.uid))));
    }
    let by_name = mapping.group.as_deref().map(group_id).transpose()?;
    let primary = mapping.gid.or(by_name).unwrap_or(account.gid);
    account.groups = match mapping.groups.is_empty() {
        true => accounts::groups(&user).map_err(Stop::CannotTell)?,
        false => mapping.groups.clone(),
    };
    account.gid = primary;
    account.groups.retain(|gid| *gid != primary);
    Ok(account)
}

fn look_up(mapping: &Mapping) -> Result<User, Stop> {
    let denied = |denial: Denial| Stop::denial("account", &denial);
    let (found, wanted) = match (&mapping.account, mapping.uid) {
        (Some(name), _) => {
            let name = AccountName::parse(name).map_err(|e| denied(Denial::NoSuchAccount(e.to_string())))?;
            (accounts::by_name(name.as_str()), name.to_string())
        }
        (None, Some(uid)) => (accounts::by_uid(uid), format!("uid {uid}")),
        (None, None) => return Err(denied(Denial::NotMapped("the mapping names nobody".into()))),
    };
    found.map_err(Stop::CannotTell)?.ok_or_else(|| denied(Denial::NoSuchAccount(wanted)))
}

fn group_id(name: &str) -> Result<u32, Stop> {
    let found = Group::from_name(name).map_err(|e| Stop::CannotTell(format!("group look-up: {e}")))?;
    let missing =
        || Stop::denial("account", &Denial::NoSuchAccount(format!("group {}", identity::one_line(name))));
    Ok(found.ok_or_else(missing)?.gid.as_raw())
}
