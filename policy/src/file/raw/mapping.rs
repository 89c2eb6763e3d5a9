//! `[mapping]` as it stands in the file, and what it means.

use super::Finding;
use super::values::*;
use crate::file::{MapSource, MappingPolicy, ServicePolicy};
use identity::Service;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;
use toml::Spanned;

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Mapping {
    order: Vec<Spanned<String>>,
    #[serde(deserialize_with = "some_absolute")]
    grid_mapfile: Option<PathBuf>,
    #[serde(deserialize_with = "some_absolute")]
    voms_mapfile: Option<PathBuf>,
    group_mapfile: Option<Spanned<String>>,
    gridmapdir: Option<Spanned<String>>,
    #[serde(deserialize_with = "duration")]
    cache_ttl: Duration,
    gums: Option<MapService>,
    scas: Option<MapService>,
    argus: Option<MapService>,
    json: Option<MapService>,
}

impl Default for Mapping {
    fn default() -> Self {
        Self {
            order: vec![Spanned::new(0..0, "grid-mapfile".into())],
            grid_mapfile: None,
            voms_mapfile: None,
            group_mapfile: None,
            gridmapdir: None,
            cache_ttl: Duration::from_secs(120),
            gums: None,
            scas: None,
            argus: None,
            json: None,
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct MapService {
    endpoints: Spanned<Vec<Spanned<String>>>,
    #[serde(default = "host_cert", deserialize_with = "absolute")]
    cert: PathBuf,
    #[serde(default = "host_key", deserialize_with = "absolute")]
    key: PathBuf,
    #[serde(default = "ten_seconds", deserialize_with = "spanned_duration")]
    timeout: Spanned<Duration>,
}

fn host_cert() -> PathBuf {
    "/etc/grid-security/hostcert.pem".into()
}

fn host_key() -> PathBuf {
    "/etc/grid-security/hostkey.pem".into()
}

fn ten_seconds() -> Spanned<Duration> {
    Spanned::new(0..0, Duration::from_secs(10))
}

impl Mapping {
    pub(super) fn check(self) -> Result<MappingPolicy, Finding> {
        let mut services = BTreeMap::new();
        let sections = [(Service::Gums, self.gums), (Service::Scas, self.scas)];
        for (service, section) in
            sections.into_iter().chain([(Service::Argus, self.argus), (Service::Json, self.json)])
        {
            if let Some(section) = section {
                services.insert(service.name(), section.check(service)?);
            }
        }
        let mut order = Vec::new();
        for name in self.order {
            let source = map_source(name.get_ref()).ok_or_else(|| {
                let known = "grid-mapfile, voms-mapfile, gums, scas, argus, json";
                (name.span(), format!("unknown mapping source {:?}; known are {known}", name.get_ref()))
            })?;
            if matches!(source, MapSource::Service(s) if !services.contains_key(s.name())) {
                return Err((
                    name.span(),
                    format!("{source} is in the order; add [mapping.{source}] with endpoints"),
                ));
            }
            if order.contains(&source) {
                let what =
                    format!("{source} stands in the order twice; the second time has no effect, remove it");
                return Err((name.span(), what));
            }
            order.push(source);
        }
        let by_file = |source: &MapSource| !matches!(source, MapSource::Service(_));
        let voms = order.contains(&MapSource::VomsMapfile);
        let reader = "grid-mapfile or voms-mapfile";
        let files = [
            ("grid_mapfile", MapSource::GridMapfile, &self.grid_mapfile),
            ("voms_mapfile", MapSource::VomsMapfile, &self.voms_mapfile),
        ];
        let files = files.into_iter().filter(|(_, _, path)| path.is_some());
        let files = files.map(|(key, source, _)| (format!("[mapping] {key}"), source));
        let described = Service::ALL.into_iter().filter(|service| services.contains_key(service.name()));
        let described =
            described.map(|service| (format!("[mapping.{}]", service.name()), MapSource::Service(service)));
        let idle = files.chain(described).filter(|(_, source)| !order.contains(source)).collect();
        let default = |name: &str| PathBuf::from("/etc/grid-security").join(name);
        Ok(MappingPolicy {
            group_mapfile: path_with_effect("group_mapfile", self.group_mapfile, voms, "voms-mapfile")?,
            gridmapdir: path_with_effect("gridmapdir", self.gridmapdir, order.iter().any(by_file), reader)?,
            order,
            idle,
            grid_mapfile: self.grid_mapfile.unwrap_or_else(|| default("grid-mapfile")),
            voms_mapfile: self.voms_mapfile.unwrap_or_else(|| default("voms-mapfile")),
            cache_ttl: self.cache_ttl,
            services,
        })
    }
}

/// A path that somebody reads: the source in the order that does.
fn path_with_effect(
    key: &str,
    path: Option<Spanned<String>>,
    is_read: bool,
    reader: &str,
) -> Result<Option<PathBuf>, Finding> {
    let Some(path) = path else { return Ok(None) };
    if !path.get_ref().starts_with('/') {
        return Err((path.span(), "the path must be absolute".into()));
    }
    if !is_read {
        let what = format!("{key} has no effect without {reader} in order; add it there, or remove {key}");
        return Err((path.span(), what));
    }
    Ok(Some(path.into_inner().into()))
}

fn map_source(name: &str) -> Option<MapSource> {
    match name {
        "grid-mapfile" => Some(MapSource::GridMapfile),
        "voms-mapfile" => Some(MapSource::VomsMapfile),
        other => Service::ALL.into_iter().find(|s| s.name() == other).map(MapSource::Service),
    }
}

impl MapService {
    fn check(self, service: Service) -> Result<ServicePolicy, Finding> {
        let mut endpoints = Vec::new();
        if self.endpoints.get_ref().is_empty() {
            let what =
                format!("[mapping.{}] names no endpoint, so it cannot work; write its URLs", service.name());
            return Err((self.endpoints.span(), what));
        }
        if self.timeout.get_ref().is_zero() {
            return Err((self.timeout.span(), "timeout: write 1s or more".into()));
        }
        for endpoint in self.endpoints.into_inner() {
            if !endpoint.get_ref().starts_with("https://") {
                return Err((endpoint.span(), "an endpoint must start with https://".into()));
            }
            endpoints.push(endpoint.into_inner());
        }
        Ok(ServicePolicy { endpoints, cert: self.cert, key: self.key, timeout: self.timeout.into_inner() })
    }
}
