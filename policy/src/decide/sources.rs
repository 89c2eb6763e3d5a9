//! The sources of mappings, in the site's order, and what they name: an account, or an account of a pool.

use super::{Answer, Call, Groups, Host, Step, Stop, resolve, unusable};
use crate::file::MapSource;
use crate::judge::{Case, Denial, Permit, Verdict, judge};
use crate::mapfile::{Found, Mapfile, Named};
use crate::pool::{LeaseName, Pool, Wanted};
use identity::{Fqan, Mapping, Service, VerifiedIdentity};
use std::collections::BTreeMap;
use std::path::Path;

/// Where a decision ended.
type Stopped = (Step, Stop);

fn at(step: Step) -> impl Fn(Stop) -> Stopped {
    move |stop| (step, stop)
}

/// The first source that knows the user decides. A service that says no ends the search; one that does not answer ends it
/// too, since the next source might contradict what it would have said.
pub(super) fn map(host: &impl Host, call: &Call<'_>, who: &VerifiedIdentity) -> Result<Permit, Stopped> {
    let files = &call.policy.mapping;
    let pools = files.gridmapdir.is_some();
    for source in &files.order {
        let (path, found) = match source {
            MapSource::GridMapfile => {
                (&files.grid_mapfile, mapfile(host, &files.grid_mapfile)?.of_dn(&who.subject, pools))
            }
            MapSource::VomsMapfile => {
                (&files.voms_mapfile, mapfile(host, &files.voms_mapfile)?.of_fqans(who.fqans(), pools))
            }
            MapSource::Service(service) => return by_service(host, call, who, *service),
        };
        if let Some(found) = found.transpose().map_err(|e| unusable(path, e)).map_err(at(Step::Mapping))? {
            return by_file(host, call, who, *source, (path, found));
        }
        let what =
            format_args!("{source} does not know the user ({}); the next source is asked", path.display());
        host.passed(Step::Mapping, &what);
    }
    let why = format!("no mapping source knows {}; ask the site to map it", who.subject);
    Err((Step::Mapping, Denial::NotMapped(why).into()))
}

fn by_service(
    host: &impl Host,
    call: &Call<'_>,
    who: &VerifiedIdentity,
    service: Service,
) -> Result<Permit, Stopped> {
    let source = MapSource::Service(service);
    let denied = |denial: Denial| Err((Step::Mapping, denial.into()));
    let mapping = match host.ask(call, service, who).map_err(at(Step::Mapping))? {
        Answer::Mapped(mapping) => mapping,
        Answer::Denied(why) => return denied(Denial::NotMapped(format!("{source} says no: {why}"))),
        Answer::Unavailable(why) => return denied(Denial::MappingUnavailable(why)),
    };
    let named = mapping.account.clone().or(mapping.uid.map(|uid| format!("uid {uid}")));
    host.passed(Step::Mapping, &format_args!("{source} names {}", named.unwrap_or_default()));
    settle(host, call, &mapping, Groups::OrTheAccounts, source).map_err(at(Step::Account))
}

fn by_file(
    host: &impl Host,
    call: &Call<'_>,
    who: &VerifiedIdentity,
    source: MapSource,
    (path, found): (&Path, Found),
) -> Result<Permit, Stopped> {
    let Found { line, named } = found;
    host.passed(Step::Mapping, &format_args!("{source} names {named} ({}:{line})", path.display()));
    let groups = match (source, &call.policy.mapping.group_mapfile) {
        (MapSource::VomsMapfile, Some(path)) => {
            Some(groups(host, path, who.fqans()).map_err(at(Step::Mapping))?)
        }
        _ => None,
    };
    let which = if groups.is_some() { Groups::Exactly } else { Groups::OrTheAccounts };
    let groups = groups.unwrap_or_default();
    let mapping = |account: String| Mapping {
        account: Some(account),
        group: groups.first().cloned(),
        group_names: groups.iter().skip(1).cloned().collect(),
        ..Mapping::default()
    };
    let settled = |account: String| settle(host, call, &mapping(account), which, source);
    match named {
        Named::Account(name) => settled(name.into()).map_err(at(Step::Account)),
        Named::Pool(pool) => {
            let lease = LeaseName::of_person(&who.subject, &groups)
                .map_err(|e| (Step::Mapping, Denial::NoLease(e.to_string()).into()))?;
            leased(host, call, &pool, &lease, settled)
        }
    }
}

/// An account of the pool that a payload may have. What cannot be permitted is not leased.
fn leased(
    host: &impl Host,
    call: &Call<'_>,
    pool: &Pool,
    lease: &LeaseName,
    settled: impl Fn(String) -> Result<Permit, Stop>,
) -> Result<Permit, Stopped> {
    let Some(dir) = &call.policy.mapping.gridmapdir else {
        return Err((Step::Mapping, Denial::NoLease(format!("pool {pool} has no gridmapdir")).into()));
    };
    let (mut permit, mut unfit) = (None, None);
    let taken = host.lease(&Wanted { dir, pool, lease }, &mut |account| {
        settled(account.to_string())
            .map(|good| permit = Some(good))
            .inspect_err(|stop| unfit = Some(stop.clone()))
    });
    match (taken, permit) {
        (Ok(_), Some(permit)) => Ok(permit),
        (Ok(account), None) => {
            Err((Step::Mapping, Stop::Site(format!("{account} was leased without having been judged"))))
        }
        (Err(stop), _) => {
            Err((if unfit.as_ref() == Some(&stop) { Step::Account } else { Step::Mapping }, stop))
        }
    }
}

/// The groups that a group map gives, the primary one first: the first FQAN decides about that one. The others stand in the
/// order of their numbers, each once, as LCMAPS has them in the names of leases; the primary one may be among them.
fn groups(host: &impl Host, path: &Path, fqans: &[Fqan]) -> Result<Vec<String>, Stop> {
    let map = Mapfile::parse(host.trusted_file(path)?).map_err(|e| unusable(path, e))?;
    let (mut primary, mut others) = (None, BTreeMap::new());
    for (n, fqan) in fqans.iter().enumerate() {
        let Some(Found { line, named: Named::Account(group) }) =
            map.of_fqan(fqan, false).transpose().map_err(|e| unusable(path, e))?
        else {
            continue;
        };
        let place = format_args!("{}:{line}", path.display());
        host.passed(Step::Mapping, &format_args!("group_mapfile gives {fqan} group {group} ({place})"));
        let gid = host.group_id(group.as_str())?;
        let gid = gid.ok_or_else(|| Denial::NoSuchAccount(format!("group {group}")))?;
        if n == 0 {
            primary = Some(group.to_string());
        } else {
            others.entry(gid).or_insert_with(|| group.to_string());
        }
    }
    let first = fqans.first().map(ToString::to_string).unwrap_or_default();
    let primary = primary.ok_or_else(|| {
        let why = "the first FQAN, which decides about the primary group";
        Denial::NotMapped(format!("{} names no group for {first}, {why}", path.display()))
    })?;
    Ok([primary].into_iter().chain(others.into_values()).collect())
}

/// The account as this host knows it, and whether a payload may have it.
fn settle(
    host: &impl Host,
    call: &Call<'_>,
    mapping: &Mapping,
    which: Groups,
    source: MapSource,
) -> Result<Permit, Stop> {
    let account = resolve(host, mapping, which)?;
    let Call { policy, conf, caller, .. } = *call;
    match judge(Case { policy, conf, caller, account: &account, source }) {
        Verdict::Permit(permit) => Ok(permit),
        Verdict::Deny(denial) => Err(denial.into()),
    }
}

fn mapfile(host: &impl Host, path: &Path) -> Result<Mapfile, Stopped> {
    let text = host.trusted_file(path).map_err(at(Step::Mapping))?;
    Mapfile::parse(text).map_err(|e| (Step::Mapping, unusable(path, e)))
}
