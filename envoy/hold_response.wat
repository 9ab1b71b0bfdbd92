;; Holds a backend's answer as long as Envoy should still be able to retry the request.
;;
;; Envoy retries an upstream request on another host or cluster only while no part of its answer has been passed
;; downstream. As an upstream HTTP filter this module delays an answer:
;;
;;   every answer                        its headers wait for the first body byte, the end or the trailers
;;   content-type: application/json      headers and body wait for the end or the trailers, up to 16 MiB
;;
;; A backend that fails or stalls after its headers, or in the middle of a JSON document, is therefore failed over
;; without the caller noticing. NDJSON, server-sent events and all other types stream from their first byte on.
;;
;; The host is Envoy's proxy-wasm ABI 0.2.1, https://github.com/proxy-wasm/spec. Each Envoy worker runs one instance
;; on one thread. A callback that is not exported here (requests, trailers, configuration) means "continue".
;; The plugin must be configured with `allow_on_headers_stop_iteration: true`. Without it a pause at the headers also
;; stops the body, and this module waits for the body.
;;
;; `python -m ops.data_plane.hold_filter` compiles this file to hold_response.wasm, which is the file that Envoy loads.

(module
  ;; get_header_map_value(map, key, key_size, &value, &value_size) -> status. Envoy copies the value into memory
  ;; that it requests from proxy_on_memory_allocate, and writes its address and size to the last two arguments.
  (import "env" "proxy_get_header_map_value"
    (func $get_header_map_value (param i32 i32 i32 i32 i32) (result i32)))

  ;; Memory, in pages of 64 KiB:
  ;;   page 0     the constants, the two result words and the buckets below
  ;;   page 1     $VALUE, to which the host writes a header's value
  ;;   page 2 …   the nodes; the memory grows by a page when they run out, up to the maximum
  (memory (export "memory") 3 130)

  (global $CONTENT_TYPE i32 (i32.const 16))
  (global $CONTENT_TYPE_SIZE i32 (i32.const 12))
  (data (i32.const 16) "content-type")
  (global $VALUE_ADDRESS i32 (i32.const 32))
  (global $VALUE_SIZE i32 (i32.const 36))

  ;; Envoy rejects an answer whose headers exceed 60 KiB together (its default), so any single value fits.
  (global $VALUE i32 (i32.const 0x10000))
  (global $VALUE_SIZE_MAX i32 (i32.const 0x10000))

  ;; proxy_status_t, proxy_header_map_type_t, and the results of a callback.
  (global $OK i32 (i32.const 0))
  (global $RESPONSE_HEADERS i32 (i32.const 2))
  (global $CONTINUE i32 (i32.const 0))
  (global $PAUSE i32 (i32.const 1))

  ;; A JSON answer that grows beyond this is released and streams on. Envoy itself answers 500 when a held body
  ;; outgrows its buffer, the larger of the route's `request_body_buffer_limit` and the listener's
  ;; `per_connection_buffer_limit_bytes` (1 MiB by default). The buffer must hold this and one more read of 1 MiB.
  ;; HELD_BYTES_MAX of gateway/rpc/message_sizes.py is the same number, and a test compares them.
  (global $HELD_BYTES_MAX i32 (i32.const 0x1000000)) ;; 16 MiB

  ;; The set of streams whose body is held, as a hash table of chained nodes. A node is two words: the stream's id
  ;; and the address of the next node of its chain. 0 ends a chain. A stream's id is Envoy's 32-bit context id. The
  ;; ids are consecutive and unique among live streams, so their low bits spread well and a comparison is exact.
  ;; One page holds 8192 nodes, so the memory at its maximum holds a million streams.
  (global $BUCKETS i32 (i32.const 0x400))
  (global $BUCKET_MASK i32 (i32.const 0xfff)) ;; 4096 buckets of one word
  (global $NODE_SIZE i32 (i32.const 8))
  (global $nodes_end (mut i32) (i32.const 0x20000))
  (global $free_nodes (mut i32) (i32.const 0)) ;; also a chain

  ;; The address of the word that points to the stream's node, or of the 0 at the end of its chain.
  (func $link_to (param $stream i32) (result i32)
    (local $link i32)
    (local $node i32)
    (local.set $link
      (i32.add
        (global.get $BUCKETS)
        (i32.shl (i32.and (local.get $stream) (global.get $BUCKET_MASK)) (i32.const 2))))
    (block $found
      (loop $chain
        (local.set $node (i32.load (local.get $link)))
        (br_if $found (i32.eqz (local.get $node)))
        (br_if $found (i32.eq (i32.load (local.get $node)) (local.get $stream)))
        (local.set $link (i32.add (local.get $node) (i32.const 4)))
        (br $chain)))
    (local.get $link))

  ;; The address of an unused node, or 0 when the memory is at its maximum.
  (func $take_node (result i32)
    (local $node i32)
    (local.set $node (global.get $free_nodes))
    (if (local.get $node)
      (then
        (global.set $free_nodes (i32.load offset=4 (local.get $node)))
        (return (local.get $node))))
    (if (i32.eq (global.get $nodes_end) (i32.shl (memory.size) (i32.const 16)))
      (then
        (if (i32.eq (memory.grow (i32.const 1)) (i32.const -1))
          (then (return (i32.const 0))))))
    (local.set $node (global.get $nodes_end))
    (global.set $nodes_end (i32.add (local.get $node) (global.get $NODE_SIZE)))
    (local.get $node))

  (func $is_held (param $stream i32) (result i32)
    (i32.ne (i32.load (call $link_to (local.get $stream))) (i32.const 0)))

  ;; Adds the stream to the set. Without memory for it the stream is not added, and its body is then not held.
  (func $hold (param $stream i32)
    (local $link i32)
    (local $node i32)
    (local.set $link (call $link_to (local.get $stream)))
    (if (i32.load (local.get $link))
      (then (return)))
    (local.set $node (call $take_node))
    (if (i32.eqz (local.get $node))
      (then (return)))
    (i32.store (local.get $node) (local.get $stream))
    (i32.store offset=4 (local.get $node) (i32.const 0))
    (i32.store (local.get $link) (local.get $node)))

  ;; Removes the stream from the set if it is there.
  (func $let_go (param $stream i32)
    (local $link i32)
    (local $node i32)
    (local.set $link (call $link_to (local.get $stream)))
    (local.set $node (i32.load (local.get $link)))
    (if (i32.eqz (local.get $node))
      (then (return)))
    (i32.store (local.get $link) (i32.load offset=4 (local.get $node)))
    (i32.store offset=4 (local.get $node) (global.get $free_nodes))
    (global.set $free_nodes (local.get $node)))

  ;; Eight bytes with ASCII capitals lowered by setting bit 5, which the other bytes of "application/json" have anyway.
  (func $load_folded (param $address i32) (result i64)
    (i64.or (i64.load align=1 (local.get $address)) (i64.const 0x2020202020202020)))

  ;; Whether the answer's media type is application/json, in any case and with any parameters. The longer names
  ;; application/jsonl and application/json-seq are streams.
  (func $is_json (result i32)
    (local $value i32)
    (local $size i32)
    (local $next i32)
    (if (i32.ne
          (call $get_header_map_value
            (global.get $RESPONSE_HEADERS)
            (global.get $CONTENT_TYPE) (global.get $CONTENT_TYPE_SIZE)
            (global.get $VALUE_ADDRESS) (global.get $VALUE_SIZE))
          (global.get $OK))
      (then (return (i32.const 0))))
    (local.set $value (i32.load (global.get $VALUE_ADDRESS)))
    (local.set $size (i32.load (global.get $VALUE_SIZE)))
    (if (i32.lt_u (local.get $size) (i32.const 16))
      (then (return (i32.const 0))))
    (if (i64.ne (call $load_folded (local.get $value)) (i64.const 0x7461_6369_6c70_7061)) ;; "applicat"
      (then (return (i32.const 0))))
    (if (i64.ne
          (call $load_folded (i32.add (local.get $value) (i32.const 8)))
          (i64.const 0x6e6f_736a_2f6e_6f69)) ;; "ion/json"
      (then (return (i32.const 0))))
    (if (i32.eq (local.get $size) (i32.const 16))
      (then (return (i32.const 1))))
    (local.set $next (i32.load8_u offset=16 (local.get $value)))
    (i32.or
      (i32.eq (local.get $next) (i32.const 0x3b)) ;; ";"
      (i32.or
        (i32.eq (local.get $next) (i32.const 0x20)) ;; space
        (i32.eq (local.get $next) (i32.const 0x09))))) ;; tab

  ;; Declares the ABI version to the host. It is never called.
  (func (export "proxy_abi_version_0_2_1"))

  ;; The address to which the host may write $size bytes. 0 refuses, and the host then fails the call that needed them.
  ;; All values share one address, because each is read before the next is requested.
  (func (export "proxy_on_memory_allocate") (param $size i32) (result i32)
    (select
      (global.get $VALUE)
      (i32.const 0)
      (i32.le_u (local.get $size) (global.get $VALUE_SIZE_MAX))))

  (func (export "proxy_on_response_headers")
      (param $stream i32) (param $header_count i32) (param $end_of_stream i32) (result i32)
    (if (local.get $end_of_stream)
      (then (return (global.get $CONTINUE))))
    (if (call $is_json)
      (then (call $hold (local.get $stream))))
    (global.get $PAUSE))

  ;; $held_bytes counts the new chunk and all that are held with it.
  (func (export "proxy_on_response_body")
      (param $stream i32) (param $held_bytes i32) (param $end_of_stream i32) (result i32)
    (if (local.get $end_of_stream)
      (then (return (global.get $CONTINUE))))
    (if (i32.eqz (local.get $held_bytes)) ;; an empty chunk has no first byte
      (then (return (global.get $PAUSE))))
    (if (i32.eqz (call $is_held (local.get $stream)))
      (then (return (global.get $CONTINUE))))
    (if (i32.gt_u (local.get $held_bytes) (global.get $HELD_BYTES_MAX))
      (then
        (call $let_go (local.get $stream))
        (return (global.get $CONTINUE))))
    (global.get $PAUSE))

  ;; Envoy calls this at the end of every stream. The id may be used again.
  (func (export "proxy_on_delete") (param $stream i32)
    (call $let_go (local.get $stream))))
