;; Makes message queues, each by another name, and ends with the error's code once one is refused.
(module
    (import "vaquita:ipc" "queue_open" (func $open (param i32 i32 i32 i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
    (memory (export "memory") 1)
    (data (i32.const 0) "aaaa")
    (func (export "_start") (local $error i32) (local $count i32)
        (loop $more
            (local.set $count (i32.add (local.get $count) (i32.const 1)))
            ;; Two letters of sixteen each.
            (i32.store8 (i32.const 0) (i32.add (i32.const 97) (i32.and (local.get $count) (i32.const 15))))
            (i32.store8 (i32.const 1)
                (i32.add (i32.const 97) (i32.and (i32.shr_u (local.get $count) (i32.const 4)) (i32.const 15))))
            (local.set $error (call $open (i32.const 0) (i32.const 4) (i32.const 3) (i32.const 1) (i32.const 16) (i32.const 8)))
            (br_if $more (i32.eqz (local.get $error))))
        (call $exit (local.get $error))))
