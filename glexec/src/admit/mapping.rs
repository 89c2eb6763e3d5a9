//! From an identity to an account: bans first, then the site's sources in their order.
//!
//! The first source that knows the user decides. A service that says no ends the search; one that does not answer
//! ends it too, since the next source might contradict what it would have said.

use crate::admit::accounts;
use crate::admit::audit::{self, Rule};
use crate::admit::cache::Cache;
use crate::admit::child;
use crate::admit::config::Config;
use crate::failure::Failure;
use helper::{MapReply, MapRequest};
use identity::{Account, Mapping, Service, VerifiedIdentity};
use policy::file::{ConfiguredPath, MapSource};
use policy::judge::{Bans, Denial};
use policy::mapfile::Mapfile;
use std::path::Path;
use std::time::Duration;

/// Reads the ban files. One that the administrator named must exist; a default one may be absent.
pub(crate) fn bans(config: &Config) -> Result<Bans, Failure> {
    let read = |configured: &ConfiguredPath| {
        if configured.explicit || audit::exists(&configured.path) {
            mapfile(&configured.path)
        } else {
            Ok(Mapfile::default())
        }
    };
    let files = &config.policy.bans;
    Ok(Bans { dns: read(&files.dn_file)?, fqans: read(&files.fqan_file)? })
}

/// The account of the identity and the source that named it.
pub(crate) fn account_of(
    config: &Config,
    identity: &VerifiedIdentity,
) -> Result<(Account, MapSource), Failure> {
    for source in &config.policy.mapping.order {
        if let Some(mapping) = ask(config, *source, identity)? {
            return Ok((accounts::resolve(&mapping)?, *source));
        }
    }
    Err(Denial::NotMapped(format!("no mapping source knows {}; ask the site to map it", identity.subject))
        .into())
}

fn ask(config: &Config, source: MapSource, identity: &VerifiedIdentity) -> Result<Option<Mapping>, Failure> {
    let files = &config.policy.mapping;
    let found = match source {
        MapSource::GridMapfile => mapfile(&files.grid_mapfile)?.account_of_dn(&identity.subject),
        MapSource::VomsMapfile => mapfile(&files.voms_mapfile)?.account_of_fqans(identity.fqans()),
        MapSource::Service(service) => return ask_service(config, service, identity).map(Some),
    };
    let named = found.transpose().map_err(|e| Failure::site(format!("{source}: {e}")))?;
    Ok(named.map(|name| Mapping { account: Some(name.into()), ..Mapping::default() }))
}

fn mapfile(path: &Path) -> Result<Mapfile, Failure> {
    let text = audit::read_text(path, Rule::FILE)?;
    Mapfile::parse(&text).map_err(|e| Failure::site(format!("{}: {e}", path.display())))
}

fn ask_service(config: &Config, service: Service, identity: &VerifiedIdentity) -> Result<Mapping, Failure> {
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
        return Ok(mapping);
    }
    let patience = section.timeout + Duration::from_secs(2);
    let answer = child::exchange("glexec-map", config.child_ids, &request.encode(), patience)
        .map_err(|failure| Denial::MappingUnavailable(failure.reason()))?;
    match MapReply::decode(&answer) {
        Ok(MapReply::Mapped(mapping)) => {
            cache.put(&answer, identity);
            Ok(mapping)
        }
        Ok(MapReply::Denied(why)) => {
            Err(Denial::NotMapped(format!("{} says no: {why}", service.name())).into())
        }
        Ok(MapReply::Unavailable(why)) => Err(Denial::MappingUnavailable(why).into()),
        Err(error) => Err(Denial::MappingUnavailable(format!("glexec-map: {error}")).into()),
    }
}
