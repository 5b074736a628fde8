//! How a container that serves HTTP serves it, as its manifest says. Pure.
//!
//! Manifests for other runtimes say the port in variables that those read; they are heeded here, so that such a manifest
//! runs as it is.

use std::{net::SocketAddr, num::NonZero, time::Duration};

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use vaquita_backends::HttpSettings;

/// Requests that an instance answers, one after another, before it is dropped.
const REUSE: &str = "vaquita.dev/http-requests-per-instance";
/// Requests that are answered at a time.
const CONCURRENCY: &str = "vaquita.dev/http-max-concurrent-requests";
/// Requests that an instance answers at once, if it is of WASI 0.3.
const CONCURRENCY_PER_INSTANCE: &str = "vaquita.dev/http-concurrent-requests-per-instance";
/// The longest that a request may take, in seconds.
const TIMEOUT: &str = "vaquita.dev/http-request-timeout-seconds";

/// Variables that say where to listen, as `ADDRESS:PORT`.
const LISTEN: [&str; 2] = ["WASMTIME_HTTP_PROXY_SOCKET_ADDR", "SPIN_HTTP_LISTEN_ADDR"];

/// Reads the pod's annotations and the container's environment; or says which annotation makes no sense.
pub fn http_settings(pod: &Pod, env: &[(String, String)]) -> Result<HttpSettings, String> {
    let number = |name: &str| match pod.annotations().get(name) {
        None => Ok(None),
        Some(text) => match text.parse::<NonZero<u32>>() {
            Ok(number) => Ok(Some(number.get())),
            Err(_) => Err(format!("annotation {name}: {text:?} is no positive number")),
        },
    };
    let mut listen = env
        .iter()
        .filter(|(name, _)| LISTEN.contains(&name.as_str()));
    Ok(HttpSettings {
        port: listen.find_map(|(_, value)| port(value)),
        requests_per_instance: number(REUSE)?,
        concurrent_requests_per_instance: number(CONCURRENCY_PER_INSTANCE)?,
        max_concurrent_requests: number(CONCURRENCY)?,
        request_timeout: number(TIMEOUT)?.map(|seconds| Duration::from_secs(u64::from(seconds))),
    })
}

fn port(value: &str) -> Option<u16> {
    let port = value.parse::<SocketAddr>().ok()?.port();
    Some(port).filter(|port| *port != 0)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn settings(
        annotations: &[(&str, &str)],
        env: &[(&str, &str)],
    ) -> Result<HttpSettings, String> {
        let mut pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p"}})).unwrap();
        for (name, value) in annotations {
            pod.annotations_mut()
                .insert((*name).to_owned(), (*value).to_owned());
        }
        let env: Vec<_> = env
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        http_settings(&pod, &env)
    }

    #[test]
    fn annotations_and_variables_are_read() {
        assert_eq!(settings(&[], &[("A", "b")]), Ok(HttpSettings::default()));
        let all = settings(
            &[
                (REUSE, "128"),
                (CONCURRENCY_PER_INSTANCE, "8"),
                (CONCURRENCY, "4"),
                (TIMEOUT, "30"),
            ],
            &[("SPIN_HTTP_LISTEN_ADDR", "0.0.0.0:80")],
        );
        assert_eq!(
            all,
            Ok(HttpSettings {
                port: Some(80),
                requests_per_instance: Some(128),
                concurrent_requests_per_instance: Some(8),
                max_concurrent_requests: Some(4),
                request_timeout: Some(Duration::from_secs(30)),
            })
        );
        let odd = settings(&[], &[("WASMTIME_HTTP_PROXY_SOCKET_ADDR", "nowhere")]);
        assert_eq!(odd.unwrap().port, None);
        assert!(settings(&[(REUSE, "0")], &[]).unwrap_err().contains(REUSE));
    }
}
