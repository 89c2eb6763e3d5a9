//! The description of the interface (OpenAPI 3.1), made from what reads the questions: it cannot promise another parameter.

use super::question::{self, Sessions, WhoWas};
use crate::filter_args::{Between, Summary};
use clap::Args;
use serde_json::{Map, Value, json};

/// The document.
pub fn document() -> Value {
    let id = json!({ "name": "id", "in": "path", "required": true, "schema": { "type": "string" } });
    let one = |what: &str| json!({ "get": operation(what, vec![id.clone()], "application/json") });
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Usage records of a site",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Who ran what, where, as whom, and what it used. Callers show a client certificate; the site's configuration says who may ask what. Every question is noted.",
        },
        "paths": {
            "/v1/sessions": {
                "get": listed::<Sessions>("Sessions and refusals, oldest first, page by page"),
                "post": uploaded("Final records of a node; each is answered for by itself"),
            },
            "/v1/sessions/{id}": one("One record"),
            "/v1/sessions/{id}/events": one("One record with each of its events"),
            "/v1/running": { "post": uploaded("All sessions that run on a node, in place of those that it told before") },
            "/v1/whowas": { "get": listed::<WhoWas>("Who held an account on a host at a moment") },
            "/v1/tree": { "get": operation("What ran inside batch jobs and pilots", parameters::<Sessions>(), "application/json") },
            "/v1/summary": { "get": listed::<Summary>("Sums of what ended") },
            "/v1/reconcile": { "get": operation("What does not fit between records, batch system and pilots", parameters::<Between>(), "application/json") },
            "/healthz": { "get": operation("Whether records can be taken and found", Vec::new(), "text/plain") },
            "/metrics": { "get": operation("Figures for Prometheus", Vec::new(), "text/plain") },
        },
        "components": { "schemas": {
            "Error": object(&[("error", json!({ "type": "string" }))]),
            "Upload": object(&[("records", json!({ "type": "array", "items": object(&[
                ("id", json!({ "type": "string" })),
                ("lines", json!({ "type": "string", "description": "Events of the record, one JSON object a line, each with its newline" })),
            ]) }))]),
            "Results": object(&[("results", json!({ "type": "array", "items": {
                "type": "object",
                "required": ["id", "result"],
                "properties": {
                    "id": { "type": "string" },
                    "result": { "enum": ["created", "duplicate", "conflict", "invalid"] },
                    "reason": { "type": "string" },
                },
            } }))]),
        } },
    })
}

fn object(fields: &[(&str, Value)]) -> Value {
    let properties: Map<String, Value> = fields.iter().map(|(k, v)| ((*k).to_owned(), v.clone())).collect();
    let required: Vec<&str> = fields.iter().map(|(name, _)| *name).collect();
    json!({ "type": "object", "required": required, "properties": properties, "additionalProperties": false })
}

fn listed<T: Args>(what: &str) -> Value {
    let mut operation = operation(what, parameters::<T>(), "application/json");
    for kind in ["application/x-ndjson", "text/csv"] {
        operation["responses"]["200"]["content"][kind] = json!({});
    }
    operation
}

fn uploaded(what: &str) -> Value {
    let schema = |name: &str| json!({ "schema": { "$ref": format!("#/components/schemas/{name}") } });
    let mut operation = operation(what, Vec::new(), "application/json");
    operation["requestBody"] =
        json!({ "required": true, "content": { "application/json": schema("Upload") } });
    operation["responses"]["200"]["content"]["application/json"] = schema("Results");
    operation
}

fn operation(what: &str, parameters: Vec<Value>, kind: &str) -> Value {
    let error = |what: &str| {
        let schema = json!({ "$ref": "#/components/schemas/Error" });
        json!({ "description": what, "content": { "application/json": { "schema": schema } } })
    };
    json!({
        "summary": what,
        "parameters": parameters,
        "responses": {
            "200": { "description": "the answer", "content": { kind: {} } },
            "400": error("a parameter or body that is none; it is named"),
            "403": error("not for this caller"),
            "404": error("not here"),
            "503": error("not now; try again after Retry-After"),
        },
    })
}

fn parameters<T: Args>() -> Vec<Value> {
    let command = T::augment_args(question::bare());
    let described = |arg: &clap::Arg| {
        let values: Vec<String> =
            arg.get_possible_values().iter().map(|value| value.get_name().to_owned()).collect();
        let one = match (arg.get_action().takes_values(), values.is_empty()) {
            (false, _) => json!({ "type": "boolean" }),
            (true, true) => json!({ "type": "string" }),
            (true, false) => json!({ "enum": values }),
        };
        let is_list = arg.get_value_delimiter().is_some();
        let schema = if is_list { json!({ "type": "array", "items": one }) } else { one };
        let mut parameter = json!({
            "name": question::parameter(arg)?,
            "in": "query",
            "required": arg.is_required_set(),
            "description": arg.get_help().map(ToString::to_string),
            "schema": schema,
        });
        if is_list {
            // vo,month and not one parameter for each
            parameter["explode"] = false.into();
        }
        Some(parameter)
    };
    command.get_arguments().filter_map(described).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_lists_the_parameters_that_are_read() {
        let document = document();
        let names = |path: &str| -> Vec<String> {
            let listed = document["paths"][path]["get"]["parameters"].as_array().unwrap();
            listed.iter().map(|p| p["name"].as_str().unwrap().to_owned()).collect()
        };
        assert!(names("/v1/sessions").contains(&"cred_sha256".to_owned()));
        assert!(names("/v1/summary").contains(&"by".to_owned()));
        assert_eq!(names("/v1/whowas"), ["uid", "host", "at"]);
        assert_eq!(names("/v1/reconcile"), ["since", "until", "month"]);
    }
}
