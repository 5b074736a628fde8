//! Mistakes in probes and lifecycle hooks.

use k8s_openapi::api::core::v1::{
    Container, ExecAction, HTTPGetAction, Lifecycle, LifecycleHandler, Probe, TCPSocketAction,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::spec::not_negative;
use vaquita_api::field::{Errors, FieldError, Path};
use vaquita_api::names;
use vaquita_api::validate::metadata::invalid;
use vaquita_api::validate::network;

/// The three probes of a container.
pub(super) fn validate_probes(container: &Container, path: &Path<'_>, errors: &mut Errors) {
    for (field, probe) in [
        ("livenessProbe", &container.liveness_probe),
        ("readinessProbe", &container.readiness_probe),
        ("startupProbe", &container.startup_probe),
    ] {
        let Some(probe) = probe else { continue };
        let path = path.child(field);
        validate_probe(probe, &path, errors);
        let successes = probe.success_threshold.unwrap_or(1);
        if field != "readinessProbe" && successes != 1 {
            errors.push(FieldError::invalid(
                &path.child("successThreshold"),
                successes,
                "must be 1",
            ));
        }
        if field == "readinessProbe"
            && let Some(seconds) = probe.termination_grace_period_seconds
        {
            let at = path.child("terminationGracePeriodSeconds");
            errors.push(FieldError::invalid(
                &at,
                seconds,
                "must not be set for readinessProbes",
            ));
        }
    }
}

fn validate_probe(probe: &Probe, path: &Path<'_>, errors: &mut Errors) {
    let grpc = probe.grpc.as_ref().map(|grpc| grpc.port);
    let handler = Handler {
        exec: probe.exec.as_ref(),
        http_get: probe.http_get.as_ref(),
        tcp_socket: probe.tcp_socket.as_ref(),
        grpc,
        sleep: None,
    };
    handler.validate(path, errors);
    for (field, value) in [
        ("initialDelaySeconds", probe.initial_delay_seconds),
        ("timeoutSeconds", probe.timeout_seconds),
        ("periodSeconds", probe.period_seconds),
        ("successThreshold", probe.success_threshold),
        ("failureThreshold", probe.failure_threshold),
    ] {
        not_negative(value, &path.child(field), errors);
    }
    if let Some(seconds) = probe
        .termination_grace_period_seconds
        .filter(|seconds| *seconds <= 0)
    {
        let at = path.child("terminationGracePeriodSeconds");
        errors.push(FieldError::invalid(&at, seconds, "must be greater than 0"));
    }
}

/// Hooks of a container; `grace` is the pod's termination grace period in seconds.
pub(super) fn validate_lifecycle(
    lifecycle: &Lifecycle,
    grace: Option<i64>,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    let hooks = [
        ("postStart", &lifecycle.post_start),
        ("preStop", &lifecycle.pre_stop),
    ];
    for (field, hook) in hooks {
        let Some(LifecycleHandler {
            exec,
            http_get,
            tcp_socket,
            sleep,
        }) = hook
        else {
            continue;
        };
        let handler = Handler {
            exec: exec.as_ref(),
            http_get: http_get.as_ref(),
            tcp_socket: tcp_socket.as_ref(),
            grpc: None,
            sleep: sleep.as_ref().map(|sleep| (sleep.seconds, grace)),
        };
        handler.validate(&path.child(field), errors);
    }
}

/// One action of several possible ones.
struct Handler<'h> {
    exec: Option<&'h ExecAction>,
    http_get: Option<&'h HTTPGetAction>,
    tcp_socket: Option<&'h TCPSocketAction>,
    /// The port.
    grpc: Option<i32>,
    /// How long to sleep, and how long the pod has.
    sleep: Option<(i64, Option<i64>)>,
}

impl Handler<'_> {
    fn validate(&self, path: &Path<'_>, errors: &mut Errors) {
        let given = [
            ("exec", self.exec.is_some()),
            ("httpGet", self.http_get.is_some()),
            ("tcpSocket", self.tcp_socket.is_some()),
            ("grpc", self.grpc.is_some()),
            ("sleep", self.sleep.is_some()),
        ];
        let given: Vec<&str> = given
            .iter()
            .filter(|(_, given)| *given)
            .map(|(field, _)| *field)
            .collect();
        for field in given.iter().skip(1) {
            errors.push(FieldError::forbidden(
                &path.child(field),
                "may not specify more than 1 handler type",
            ));
        }
        match given.first() {
            Some(field) => self.validate_action(&path.child(field), errors),
            None => errors.push(FieldError::required(path, "must specify a handler type")),
        }
    }

    /// The first action that is given, which is at `path`.
    fn validate_action(&self, path: &Path<'_>, errors: &mut Errors) {
        if let Some(action) = self.exec {
            if action.command.as_ref().is_none_or(Vec::is_empty) {
                errors.push(FieldError::required(&path.child("command"), ""));
            }
        } else if let Some(action) = self.http_get {
            validate_http_get(action, path, errors);
        } else if let Some(action) = self.tcp_socket {
            validate_port(&action.port, &path.child("port"), errors);
        } else if let Some(port) = self.grpc {
            network::port(port, &path.child("port"), errors);
        } else if let Some((seconds, Some(grace))) = self.sleep
            && (seconds < 0 || seconds > grace)
        {
            let detail = format!(
                "must be non-negative and less than terminationGracePeriodSeconds ({grace})"
            );
            errors.push(FieldError::invalid(path, seconds, detail));
        }
    }
}

fn validate_http_get(action: &HTTPGetAction, path: &Path<'_>, errors: &mut Errors) {
    if action.path.as_ref().is_none_or(String::is_empty) {
        errors.push(FieldError::required(&path.child("path"), ""));
    }
    validate_port(&action.port, &path.child("port"), errors);
    let scheme = action.scheme.as_deref().unwrap_or_default();
    if !["HTTP", "HTTPS"].contains(&scheme) {
        errors.push(FieldError::not_supported(
            &path.child("scheme"),
            scheme,
            &["HTTP", "HTTPS"],
        ));
    }
    for header in action.http_headers.iter().flatten() {
        let token = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
        if header.name.is_empty() || !header.name.bytes().all(token) {
            const DETAIL: &str = "a valid HTTP header must consist of alphanumeric characters or '-' (e.g. 'X-Header-Name', \
                                  regex used for validation is '[-A-Za-z0-9]+')";
            errors.push(FieldError::invalid(
                &path.child("httpHeaders"),
                header.name.as_str(),
                DETAIL,
            ));
        }
    }
}

fn validate_port(port: &IntOrString, path: &Path<'_>, errors: &mut Errors) {
    match port {
        IntOrString::Int(number) => network::port(*number, path, errors),
        IntOrString::String(name) => invalid(path, name, names::port_name(name), errors),
    }
}
