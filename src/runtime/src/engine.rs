//! The engine: how guests are compiled, where their memories come from, and how they are made to yield.

use std::fmt;

use wasmtime::{
    Enabled, InstanceAllocationStrategy, PoolingAllocationConfig, WasmBacktraceDetails,
};

use crate::budget::Ceilings;
use crate::config::Config;

/// The fewest instances that a pool is worth having for.
const SMALLEST_POOL: u32 = 16;

/// What a running instance takes of its process's memory mappings.
const MAPPINGS_PER_INSTANCE: u64 = 6;

/// Linear memory below this size is wiped by hand when an instance ends rather than given back to the kernel:
/// it will be wanted again at once, and page faults cost far more than clearing.
const MEMORY_KEPT: usize = 1 << 20;
const TABLE_KEPT: usize = 64 << 10;
const STACK_KEPT: usize = 64 << 10;

/// A component's core modules each take an instance and a table or so; its memories stay few.
const CORE_INSTANCES_PER_SLOT: u32 = 8;
const TABLES_PER_SLOT: u32 = 4;

/// What interpreters compiled to Wasm need, with room to spare; ceilings, not reservations.
const TABLE_ELEMENTS: usize = 100_000;

/// Asynchronous components share the machine with the others: a smaller pool is reserved for them, and only when the
/// first of them comes.
const ASYNC_SHARE: u32 = 4;

/// What an engine is for. The bookkeeping that asynchronous components need would slow down all others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Modules of WASI 0.1 and components of 0.2.
    Sync,
    /// Components of WASI 0.3.
    Async,
}

/// An engine, and what it has room for.
pub(crate) struct Engine {
    pub(crate) wasmtime: wasmtime::Engine,
    /// How many instances there is room for, which may be fewer than were asked for.
    pub(crate) instances: u32,
    pub(crate) ceilings: Ceilings,
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine")
            .field("instances", &self.instances)
            .finish_non_exhaustive()
    }
}

impl Engine {
    /// An engine with a pool as large as `config` asks for, or else as the address space has room for.
    pub(crate) fn new(config: &Config, purpose: Purpose) -> wasmtime::Result<Self> {
        let wanted = match purpose {
            Purpose::Sync => config.max_instances.max(1),
            Purpose::Async => (config.max_instances / ASYNC_SHARE).max(SMALLEST_POOL),
        };
        let mut instances = wanted;
        warn_about_mappings(instances);
        loop {
            match wasmtime::Engine::new(&settings(config, purpose, instances)) {
                Ok(wasmtime) => {
                    if instances < wanted {
                        tracing::warn!(
                            wanted,
                            instances,
                            "not enough address space for the instance pool: fewer instances can run at once"
                        );
                    }
                    return Ok(Self {
                        wasmtime,
                        instances,
                        ceilings: ceilings(config),
                    });
                }
                Err(error) if instances <= SMALLEST_POOL => return Err(error),
                Err(error) => {
                    tracing::debug!(instances, %error, "the instance pool does not fit");
                    instances = (instances / 2).max(SMALLEST_POOL);
                }
            }
        }
    }
}

/// Linux gives a process so many mappings and no more; what fails for the lack of one is hard to understand.
fn warn_about_mappings(instances: u32) {
    let limit = std::fs::read_to_string("/proc/sys/vm/max_map_count");
    let Some(limit) = limit
        .ok()
        .and_then(|limit| limit.trim().parse::<u64>().ok())
    else {
        return;
    };
    let wanted = u64::from(instances).saturating_mul(MAPPINGS_PER_INSTANCE);
    if wanted > limit {
        tracing::warn!(
            limit,
            wanted,
            "instances may fail for want of memory mappings; raise the limit: sysctl -w vm.max_map_count={wanted}"
        );
    }
}

fn ceilings(config: &Config) -> Ceilings {
    Ceilings {
        memory: usize::try_from(config.memory_reservation).unwrap_or(usize::MAX),
        table_elements: TABLE_ELEMENTS,
    }
}

fn settings(config: &Config, purpose: Purpose, instances: u32) -> wasmtime::Config {
    let mut settings = wasmtime::Config::new();
    settings
        .concurrency_support(purpose == Purpose::Async)
        .epoch_interruption(true)
        // For what modules of a pod share; see `ipc`.
        .shared_memory(true)
        // Names come from the name section. Debug information would be parsed on a guest thread in the guest's
        // name, however large and strange it is.
        .wasm_backtrace_details(WasmBacktraceDetails::Disable)
        .memory_init_cow(true)
        .memory_reservation(config.memory_reservation)
        .allocation_strategy(InstanceAllocationStrategy::Pooling(pool(config, instances)));
    settings
}

fn pool(config: &Config, instances: u32) -> PoolingAllocationConfig {
    let mut pool = PoolingAllocationConfig::new();
    pool.total_memories(instances)
        .total_stacks(instances)
        .total_component_instances(instances)
        .total_core_instances(instances.saturating_mul(CORE_INSTANCES_PER_SLOT))
        .total_tables(instances.saturating_mul(TABLES_PER_SLOT))
        .max_memory_size(ceilings(config).memory)
        .table_elements(TABLE_ELEMENTS)
        .max_memories_per_module(4)
        .max_tables_per_module(4)
        // One component must not empty the pool for all others.
        .max_memories_per_component(8)
        .max_tables_per_component(64)
        .max_core_instances_per_component(128)
        .max_core_instance_size(4 << 20)
        .max_component_instance_size(16 << 20)
        .linear_memory_keep_resident(MEMORY_KEPT)
        .table_keep_resident(TABLE_KEPT)
        .async_stack_keep_resident(STACK_KEPT)
        // With it, only pages that were written are cleared; where the kernel lacks it, all are.
        .pagemap_scan(Enabled::Auto);
    pool
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pool_that_does_not_fit_is_made_smaller() {
        let config = Config {
            max_instances: u32::MAX / 16,
            ..Config::default()
        };
        let engine = Engine::new(&config, Purpose::Sync).expect("a smaller pool");
        assert!(engine.instances >= SMALLEST_POOL);
        assert!(engine.instances < config.max_instances);
    }
}
