//! What the packages of `wit` are in Rust: made of them, with WASI's pollables as they are.

#![allow(
    missing_docs,
    clippy::pedantic,
    clippy::missing_docs_in_private_items,
    unreachable_pub,
    reason = "it is generated; the packages say what everything is"
)]

wasmtime::component::bindgen!({
    path: "wit",
    world: "vaquita:guest/guest",
    imports: {
        "vaquita:ipc/queues.[method]queue.blocking-send": async | trappable,
        "vaquita:ipc/queues.[method]queue.blocking-receive": async | trappable,
        "vaquita:ipc/semaphores.[method]semaphore.acquire": async | trappable,
        "vaquita:ipc/shared-memory.[method]memory.wait": async | trappable,
        "vaquita:pod/process.wait": async | trappable,
        default: trappable,
    },
    with: {
        "wasi:io/poll": wasmtime_wasi::p2::bindings::io::poll,
        "vaquita:ipc/queues.queue": crate::host_calls::OpenQueue,
        "vaquita:ipc/semaphores.semaphore": crate::host_calls::OpenSemaphore,
        "vaquita:ipc/shared-memory.memory": crate::host_calls::OpenMemory,
    },
    require_store_data_send: true,
});

/// What the packages of `wit-settings` are.
pub(crate) mod settings {
    wasmtime::component::bindgen!({
        path: "wit-settings",
        world: "vaquita:settings/settings",
        imports: {
            "fermyon:spin/key-value.[method]store.get": async | trappable,
            "fermyon:spin/key-value.[method]store.set": async | trappable,
            "fermyon:spin/key-value.[method]store.delete": async | trappable,
            "fermyon:spin/key-value.[method]store.exists": async | trappable,
            "fermyon:spin/key-value.[method]store.get-keys": async | trappable,
            "wasi:keyvalue/store.[method]bucket.get": async | trappable,
            "wasi:keyvalue/store.[method]bucket.set": async | trappable,
            "wasi:keyvalue/store.[method]bucket.delete": async | trappable,
            "wasi:keyvalue/store.[method]bucket.exists": async | trappable,
            "wasi:keyvalue/store.[method]bucket.list-keys": async | trappable,
            default: trappable,
        },
        with: {
            "fermyon:spin/key-value.store": crate::host_calls::OpenStore,
            "wasi:keyvalue/store.bucket": crate::host_calls::OpenBucket,
        },
        require_store_data_send: true,
    });
}
