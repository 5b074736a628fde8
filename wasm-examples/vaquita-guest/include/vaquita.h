/* What Vaquita offers to core modules (wasm32-wasi) beyond WASI: the modules vaquita:ipc and vaquita:pod.
 *
 * Every function answers an error number of WASI (errno.h has the same), 0 for success. Times are in nanoseconds: 0 does not
 * wait (EAGAIN), less than 0 waits for as long as it takes, all else gives up then (ETIMEDOUT). Names are at most 255 bytes.
 */
#ifndef VAQUITA_H
#define VAQUITA_H

#include <stddef.h>
#include <stdint.h>

#define VAQUITA_IPC(name) __attribute__((__import_module__("vaquita:ipc"), __import_name__(name)))
#define VAQUITA_POD(name) __attribute__((__import_module__("vaquita:pod"), __import_name__(name)))

#ifdef __cplusplus
extern "C" {
#endif

/* How something is opened: made if there is none of that name; with both: there must be none. */
#define VAQUITA_CREATE 1
#define VAQUITA_EXCLUSIVE 2

#define VAQUITA_FOREVER (-1LL)

/* Closes a queue, a semaphore or a memory. */
VAQUITA_IPC("close") int vaquita_close(uint32_t number);

/* Message queues. With 0 messages of 0 bytes, a new one has 10 of 8 KiB. */
VAQUITA_IPC("queue_open") int vaquita_queue_open(const char *name, size_t length, uint32_t flags, uint32_t max_messages, uint32_t max_message_size, uint32_t *number);
VAQUITA_IPC("queue_unlink") int vaquita_queue_unlink(const char *name, size_t length);
struct vaquita_queue_status { uint32_t max_messages, max_message_size, messages; };
VAQUITA_IPC("queue_status") int vaquita_queue_status(uint32_t number, struct vaquita_queue_status *status);
VAQUITA_IPC("queue_send") int vaquita_queue_send(uint32_t number, const void *data, size_t length, uint32_t priority, int64_t time);
/* There must be room for the longest message of the queue. */
VAQUITA_IPC("queue_receive") int vaquita_queue_receive(uint32_t number, void *into, size_t room, int64_t time, uint32_t *length, uint32_t *priority);

/* Semaphores. */
VAQUITA_IPC("semaphore_open") int vaquita_semaphore_open(const char *name, size_t length, uint32_t flags, uint32_t value, uint32_t *number);
VAQUITA_IPC("semaphore_unlink") int vaquita_semaphore_unlink(const char *name, size_t length);
VAQUITA_IPC("semaphore_value") int vaquita_semaphore_value(uint32_t number, uint32_t *value);
VAQUITA_IPC("semaphore_acquire") int vaquita_semaphore_acquire(uint32_t number, int64_t time);
VAQUITA_IPC("semaphore_release") int vaquita_semaphore_release(uint32_t number, uint32_t count);

/* Shared memory, of whole pages of 64 KiB. Numbers in it have a width of 1, 2, 4 or 8 bytes and lie at multiples of that. */
VAQUITA_IPC("memory_open") int vaquita_memory_open(const char *name, size_t length, uint32_t flags, uint64_t size, uint32_t *number);
VAQUITA_IPC("memory_unlink") int vaquita_memory_unlink(const char *name, size_t length);
VAQUITA_IPC("memory_size") int vaquita_memory_size(uint32_t number, uint64_t *size);
VAQUITA_IPC("memory_read") int vaquita_memory_read(uint32_t number, uint64_t offset, void *into, size_t length);
VAQUITA_IPC("memory_write") int vaquita_memory_write(uint32_t number, uint64_t offset, const void *from, size_t length);
VAQUITA_IPC("memory_load") int vaquita_memory_load(uint32_t number, uint64_t offset, uint32_t width, uint64_t *value);
enum vaquita_operation { VAQUITA_ADD, VAQUITA_SUB, VAQUITA_AND, VAQUITA_OR, VAQUITA_XOR, VAQUITA_EXCHANGE };
VAQUITA_IPC("memory_update") int vaquita_memory_update(uint32_t number, uint64_t offset, uint32_t width, uint32_t operation, uint64_t operand, uint64_t *old);
VAQUITA_IPC("memory_compare_exchange") int vaquita_memory_compare_exchange(uint32_t number, uint64_t offset, uint32_t width, uint64_t expected, uint64_t desired, uint64_t *old);
/* Waits as long as `expected` is there when it begins (EAGAIN if not), until somebody notifies that place. */
VAQUITA_IPC("memory_wait") int vaquita_memory_wait(uint32_t number, uint64_t offset, uint32_t width, uint64_t expected, int64_t time);
VAQUITA_IPC("memory_notify") int vaquita_memory_notify(uint32_t number, uint64_t offset, uint32_t count, uint32_t *woken);

/* Processes of the pod, as far as this one may know them. */
VAQUITA_POD("process_own_id") int vaquita_process_own_id(uint32_t *id);
/* A line for each: id, container, running or terminating, CPU time in nanoseconds, memory in bytes and command, with tabs between.
 * `length` is that of the whole text, whatever there is room for. */
VAQUITA_POD("process_list") int vaquita_process_list(char *into, size_t room, uint32_t *length);
#define VAQUITA_KILL 9
#define VAQUITA_TERM 15
VAQUITA_POD("process_signal") int vaquita_process_signal(uint32_t id, uint32_t signal);
VAQUITA_POD("process_wait") int vaquita_process_wait(uint32_t id, int32_t *exit_code);

/* The pod's name and, if it has one, its domain. */
VAQUITA_POD("hostname") int vaquita_hostname(char *into, size_t room, uint32_t *length);
VAQUITA_POD("domain") int vaquita_domain(char *into, size_t room, uint32_t *length);

/* Waits until the process is to end (EAGAIN if not yet), and says how many nanoseconds it has. A process that asks is given its
 * time; one that never does is ended at once. */
VAQUITA_POD("termination") int vaquita_termination(int64_t time, uint64_t *remaining);

#ifdef __cplusplus
}
#endif

#endif
