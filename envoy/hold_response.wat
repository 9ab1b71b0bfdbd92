;; Holds a backend's answer as long as Envoy should still be able to retry the request.
;;
;; Envoy retries an upstream request on another host or cluster only while no part of its answer has been passed
;; downstream. As an upstream HTTP filter this module delays an answer:
;;
;;   every answer                        its headers wait for the first body byte, the end or the trailers
;;   content-type: application/json      headers and body wait for the end or the trailers, up to 16 MiB
;;   a 2xx on one of the surfaces below  waits in addition until its first frame is complete
;;
;; A backend that fails or stalls after its headers, or in the middle of a JSON document, is therefore failed over
;; without the caller noticing. NDJSON and server-sent events stream as soon as their first frame is recognised, all
;; other types from their first byte on.
;;
;; A 2xx on a surface that is not an answer of this surface gets the status $NOT_AN_ANSWER, on which the router retries:
;; an empty body, a status other than 200, a content encoding, another media type than the request accepts, a body that
;; is not a JSON object, an error object, or an object without the member that every answer of the surface has. The
;; check reads strings, brackets and the names of the outermost members, not the whole grammar of JSON. The meter reads
;; the whole answer, and what passes here can still fail there (meter/frames/recognition.py).
;;
;; A 503 on a surface whose body has the sentence of an Ollama with too many pending requests gets the status
;; $SERVER_BUSY. The router tries the request again: at the next cluster of its list, and on the last one after a
;; back-off, which $RETRY_AFTER requests. authz allows attempts beyond its list for this reason only. So the last attempt
;; of the list, and each later one, that fails for another reason is final: its error has $NO_RETRY, and an attempt that
;; follows a reset, a failed connection or a timeout is answered here. `local_replies.py` has the same two details. The
;; plugin's configuration is the timeout of an attempt in whole milliseconds.
;;
;; The host is Envoy's proxy-wasm ABI 0.2.1, https://github.com/proxy-wasm/spec. Each Envoy worker runs one instance
;; on one thread. A callback that is not exported here (trailers, configuration) means "continue".
;; The plugin must be configured with `allow_on_headers_stop_iteration: true`. Without it a pause at the headers also
;; stops the body, and this module waits for the body.
;;
;; `python -m ops.data_plane.hold_filter` compiles this file to hold_response.wasm, which is the file that Envoy loads.

(module
  ;; get_header_map_value(map, key, key_size, &value, &value_size) -> status. Envoy copies the value into memory
  ;; that it requests from proxy_on_memory_allocate, and writes its address and size to the last two arguments.
  (import "env" "proxy_get_header_map_value"
    (func $get_header_map_value (param i32 i32 i32 i32 i32) (result i32)))
  ;; replace_header_map_value(map, key, key_size, value, value_size) -> status
  (import "env" "proxy_replace_header_map_value"
    (func $replace_header_map_value (param i32 i32 i32 i32 i32) (result i32)))
  ;; get_buffer_bytes(buffer, start, size, &value, &value_size) -> status. Copies like get_header_map_value.
  (import "env" "proxy_get_buffer_bytes"
    (func $get_buffer_bytes (param i32 i32 i32 i32 i32) (result i32)))
  ;; get_property(path, path_size, &value, &value_size) -> status. Copies like get_header_map_value.
  (import "env" "proxy_get_property"
    (func $get_property (param i32 i32 i32 i32) (result i32)))
  ;; set_property(name, name_size, value, value_size) -> status. Every attempt of a request has the same properties.
  (import "env" "proxy_set_property"
    (func $set_property (param i32 i32 i32 i32) (result i32)))
  ;; get_current_time_nanoseconds(&time) -> status. Writes 8 bytes.
  (import "env" "proxy_get_current_time_nanoseconds"
    (func $get_time (param i32) (result i32)))
  ;; send_local_response(status, details, details_size, body, body_size, headers, headers_size, grpc_status) -> status
  (import "env" "proxy_send_local_response"
    (func $send_local_response (param i32 i32 i32 i32 i32 i32 i32 i32) (result i32)))

  ;; Memory, in pages of 64 KiB:
  ;;   page 0     the constants, the two result words, the table of surfaces and the buckets below
  ;;   page 1     $VALUE, to which the host writes a header's value or a piece of the body
  ;;   page 2 …   the nodes; the memory grows by a page when they run out, up to the maximum
  (memory (export "memory") 3 130)

  (global $VALUE_ADDRESS i32 (i32.const 0x20))
  (global $VALUE_SIZE i32 (i32.const 0x24))
  (global $CONTENT_TYPE i32 (i32.const 0x30))
  (data (i32.const 0x30) "content-type")
  (global $STATUS i32 (i32.const 0x40))
  (data (i32.const 0x40) ":status")
  (global $PATH i32 (i32.const 0x48))
  (data (i32.const 0x48) ":path")
  (global $ACCEPT i32 (i32.const 0x50))
  (data (i32.const 0x50) "accept")
  (global $CONTENT_ENCODING i32 (i32.const 0x58))
  (data (i32.const 0x58) "content-encoding")
  (global $APPLICATION_JSON i32 (i32.const 0x70))
  (data (i32.const 0x70) "application/json")
  (global $APPLICATION_NDJSON i32 (i32.const 0x80))
  (data (i32.const 0x80) "application/x-ndjson")
  (global $TEXT_EVENT_STREAM i32 (i32.const 0x98))
  (data (i32.const 0x98) "text/event-stream")
  (global $DATA i32 (i32.const 0xb0))
  (data (i32.const 0xb0) "data:")
  (global $ERROR i32 (i32.const 0xb8))
  (data (i32.const 0xb8) "error")
  (global $MODEL i32 (i32.const 0xc0))
  (data (i32.const 0xc0) "model")

  ;; The status of a 2xx that is not an answer. It is none that Ollama sends, and none for which Envoy ejects a replica:
  ;; a caller could otherwise get a replica ejected with a prompt on which its model fails. `meter` answers 502.
  (global $NOT_AN_ANSWER i32 (i32.const 0xc8))
  (data (i32.const 0xc8) "520")

  ;; A response header for the meter: the body is one JSON document that was held whole, so it comes in one piece.
  (global $HELD_WHOLE i32 (i32.const 0xd0))
  (data (i32.const 0xd0) "x-nz-held-whole")
  (global $YES i32 (i32.const 0xe0))
  (data (i32.const 0xe0) "1")

  ;; The status of an Ollama with too many pending requests. Like $NOT_AN_ANSWER it ejects no replica. `meter` answers 503.
  (global $SERVER_BUSY i32 (i32.const 0xe4))
  (data (i32.const 0xe4) "521")
  ;; Part of Ollama's sentence, "server busy, please try again.  maximum pending requests exceeded".
  (global $BUSY_SENTENCE i32 (i32.const 0x340))
  (data (i32.const 0x340) "maximum pending requests exceeded")
  (global $BUSY_SENTENCE_SIZE i32 (i32.const 33))
  ;; A longer body is not the sentence.
  (global $BUSY_BODY_MAX i32 (i32.const 1024))
  ;; The seconds of the router's back-off, see `rate_limited_retry_back_off` of the route.
  (global $RETRY_AFTER i32 (i32.const 0xe8))
  (data (i32.const 0xe8) "x-nz-retry-after")
  ;; With this header the router does not try a request again.
  (global $NO_RETRY i32 (i32.const 0x368))
  (data (i32.const 0x368) "x-envoy-ratelimited")
  ;; A request header of each attempt but the first, of a request whose list is known: it waits for a slot at its replica,
  ;; see ops/data_plane/further_attempts.py.
  (global $FURTHER_ATTEMPT i32 (i32.const 0x3f0))
  (data (i32.const 0x3f0) "x-nz-attempt")
  ;; The number of the attempt, and the length of authz's list, a text of one digit or more. Absent in other releases.
  (global $ATTEMPT i32 (i32.const 0x380))
  (data (i32.const 0x380) "upstream\00request_attempt_count")
  (global $TRIES i32 (i32.const 0x3a0))
  (data (i32.const 0x3a0) "metadata\00filter_metadata\00envoy.filters.http.ext_authz\00tries")
  ;; How the previous attempt ended: "1" at a busy server, "2" by its timeout, "0" or absent otherwise.
  (global $WAS_BUSY i32 (i32.const 0x3e0))
  (data (i32.const 0x3e0) "nz_busy")
  (global $NO i32 (i32.const 0xe2))
  (data (i32.const 0xe2) "0")
  (global $TIMED_OUT i32 (i32.const 0xf8))
  (data (i32.const 0xf8) "2")
  ;; The details of the answer to an attempt that follows a final one.
  (global $FAILED_DETAILS i32 (i32.const 0xffc0))
  (data (i32.const 0xffc0) "attempt_failed")
  (global $TIMED_OUT_DETAILS i32 (i32.const 0xffd0))
  (data (i32.const 0xffd0) "attempt_timed_out")
  ;; Where the host writes the present time.
  (global $NOW i32 (i32.const 0xfff0))
  ;; Seven eighths of the timeout of an attempt in ns, 0 when it is unknown. Envoy's timers count from the time at which a turn of
  ;; its event loop began, so an attempt may end by its timeout a little earlier than this filter's clock measures.
  (global $timeout_ns (mut i64) (i64.const 0))

  ;; The surfaces, one row of 64 bytes each. meter/frames/recognition.py has the same table, and a test
  ;; compares them. Byte 0: size of the path. 1: size of the member of a whole answer. 2: size of the member of a
  ;; stream's first frame, 0 without streams. 3: media type of the stream. 4: first byte of the value of the member of a
  ;; whole answer. 5: its alternative. 6: first byte of the value of the member of a stream. From 8: the path.
  ;; From 32: the member of a whole answer. From 48: the member of a stream.
  (global $SURFACES i32 (i32.const 0x100))
  (global $SURFACES_END i32 (i32.const 0x340))
  (global $ROW_SIZE i32 (i32.const 64))
  (data (i32.const 0x100) "\09\07\07\02{{{") (data (i32.const 0x108) "/api/chat")
  (data (i32.const 0x120) "message") (data (i32.const 0x130) "message")
  (data (i32.const 0x140) "\0d\08\08\02\"\"\"") (data (i32.const 0x148) "/api/generate")
  (data (i32.const 0x160) "response") (data (i32.const 0x170) "response")
  (data (i32.const 0x180) "\0a\0a\00\00[[") (data (i32.const 0x188) "/api/embed")
  (data (i32.const 0x1a0) "embeddings")
  (data (i32.const 0x1c0) "\0f\09\00\00[[") (data (i32.const 0x1c8) "/api/embeddings")
  (data (i32.const 0x1e0) "embedding")
  (data (i32.const 0x200) "\14\07\07\03[[[") (data (i32.const 0x208) "/v1/chat/completions")
  (data (i32.const 0x220) "choices") (data (i32.const 0x230) "choices")
  (data (i32.const 0x240) "\0f\07\07\03[[[") (data (i32.const 0x248) "/v1/completions")
  (data (i32.const 0x260) "choices") (data (i32.const 0x270) "choices")
  (data (i32.const 0x280) "\0e\04\00\00[[") (data (i32.const 0x288) "/v1/embeddings")
  (data (i32.const 0x2a0) "data")
  (data (i32.const 0x2c0) "\0d\06\08\03[n{") (data (i32.const 0x2c8) "/v1/responses")
  (data (i32.const 0x2e0) "output") (data (i32.const 0x2f0) "response")
  (data (i32.const 0x300) "\0c\07\07\03[n{") (data (i32.const 0x308) "/v1/messages")
  (data (i32.const 0x320) "content") (data (i32.const 0x330) "message")

  ;; Envoy rejects an answer whose headers exceed 60 KiB together (its default), so any single value fits.
  (global $VALUE i32 (i32.const 0x10000))
  (global $VALUE_SIZE_MAX i32 (i32.const 0x10000))

  ;; proxy_status_t, proxy_header_map_type_t, proxy_buffer_type_t, and the results of a callback.
  (global $OK i32 (i32.const 0))
  (global $REQUEST_HEADERS i32 (i32.const 0))
  (global $RESPONSE_HEADERS i32 (i32.const 2))
  (global $RESPONSE_BODY i32 (i32.const 1))
  (global $PLUGIN_CONFIGURATION i32 (i32.const 7))
  (global $CONTINUE i32 (i32.const 0))
  (global $PAUSE i32 (i32.const 1))

  ;; Media types.
  (global $OTHER i32 (i32.const 0))
  (global $JSON i32 (i32.const 1))
  (global $NDJSON i32 (i32.const 2))
  (global $EVENTS i32 (i32.const 3))

  ;; An answer that grows beyond this is released and streams on. Envoy itself answers 500 when a held body
  ;; outgrows its buffer, the larger of the route's `request_body_buffer_limit` and the listener's
  ;; `per_connection_buffer_limit_bytes` (1 MiB by default). The buffer must hold this and one more read of 1 MiB.
  ;; HELD_BYTES_MAX of gateway/rpc/message_sizes.py is the same number, and a test compares them.
  (global $HELD_BYTES_MAX i32 (i32.const 0x1000000)) ;; 16 MiB

  ;; The set of streams whose body is held, as a hash table of chained nodes. 0 ends a chain. A stream's id is Envoy's
  ;; 32-bit context id. The ids are consecutive and unique among live streams, so their low bits spread well and a
  ;; comparison is exact. One page holds 512 nodes, so the memory at its maximum holds 65,536 streams.
  ;;
  ;; Words of a node, by offset:
  ;;    0 stream    the stream's id
  ;;    4 next      the address of the next node of its chain
  ;;    8 surface   the row of its surface, 0 for an answer that is only held
  ;;   12 media     the media type
  ;;   16 position  how much of the body was read
  ;;   20 stage     $BEFORE, $WITHIN or $AFTER the first object of the body
  ;;   24 depth     the number of open brackets
  ;;   28 string    0 outside a string, 1 in one, 2 after a backslash in one
  ;;   32 member    what of an outermost member was read: $NOTHING, $NAME, $VALUE_FIRST, $VALUE_SECOND, $VALUE_REST
  ;;   36 name_size its size, which may exceed the 16 bytes that are kept
  ;;   40 first     the first byte of its value
  ;;   44 found     1 when the member of the surface was there
  ;;   48 wrong     1 when this is not an answer of the surface
  ;;   52 line      of server-sent events: how much of "data:" the line matches, -1 for another line
  ;;   56 accepted  the media type that the request accepts, $OTHER for any
  ;;   60 busy      1 for a 503 on a surface, which may be that of a busy server
  ;;   80 began     the time at which the attempt began, in ns (64 bits); 0 for an answer that is only held
  ;;   64 name      the first 16 bytes of the outermost member's name
  (global $BUCKETS i32 (i32.const 0x400))
  (global $BUCKET_MASK i32 (i32.const 0xfff)) ;; 4096 buckets of one word
  (global $NODE_SIZE i32 (i32.const 128))
  (global $nodes_end (mut i32) (i32.const 0x20000))
  (global $free_nodes (mut i32) (i32.const 0)) ;; also a chain

  (global $BEFORE i32 (i32.const 0))
  (global $WITHIN i32 (i32.const 1))
  (global $AFTER i32 (i32.const 2))
  (global $NOTHING i32 (i32.const 0))
  (global $NAME i32 (i32.const 1))
  (global $VALUE_FIRST i32 (i32.const 2))
  (global $VALUE_SECOND i32 (i32.const 3)) ;; its first byte was read
  (global $VALUE_REST i32 (i32.const 4))
  (global $NAME_SIZE_MAX i32 (i32.const 16))

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

  ;; The stream's node, or 0 when it is not held.
  (func $node_of (param $stream i32) (result i32)
    (i32.load (call $link_to (local.get $stream))))

  ;; Adds the stream to the set and returns its node. Without memory for it the stream is not added, the result is 0, and
  ;; its body is not held.
  (func $hold (param $stream i32) (result i32)
    (local $link i32)
    (local $node i32)
    (local.set $link (call $link_to (local.get $stream)))
    (local.set $node (i32.load (local.get $link)))
    (if (local.get $node)
      (then (return (local.get $node))))
    (local.set $node (call $take_node))
    (if (local.get $node)
      (then
        (memory.fill (local.get $node) (i32.const 0) (global.get $NODE_SIZE))
        (i32.store (local.get $node) (local.get $stream))
        (i32.store (local.get $link) (local.get $node))))
    (local.get $node))

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

  (func $equal (param $left i32) (param $right i32) (param $size i32) (result i32)
    (local $at i32)
    (block $differ
      (loop $bytes
        (if (i32.eq (local.get $at) (local.get $size))
          (then (return (i32.const 1))))
        (br_if $differ
          (i32.ne
            (i32.load8_u (i32.add (local.get $left) (local.get $at)))
            (i32.load8_u (i32.add (local.get $right) (local.get $at)))))
        (local.set $at (i32.add (local.get $at) (i32.const 1)))
        (br $bytes)))
    (i32.const 0))

  ;; Reads a header to $VALUE_ADDRESS and $VALUE_SIZE; 0 when it is absent.
  (func $read_header (param $map i32) (param $name i32) (param $name_size i32) (result i32)
    (i32.eq
      (call $get_header_map_value
        (local.get $map) (local.get $name) (local.get $name_size)
        (global.get $VALUE_ADDRESS) (global.get $VALUE_SIZE))
      (global.get $OK)))

  ;; Whether the value that was read is the media type $name, with any parameters. The longer names application/jsonl
  ;; and application/json-seq are others. The value is in lower case.
  (func $is_media_type (param $name i32) (param $name_size i32) (result i32)
    (local $value i32)
    (local $size i32)
    (local $next i32)
    (local.set $value (i32.load (global.get $VALUE_ADDRESS)))
    (local.set $size (i32.load (global.get $VALUE_SIZE)))
    (if (i32.lt_u (local.get $size) (local.get $name_size))
      (then (return (i32.const 0))))
    (if (i32.eqz (call $equal (local.get $value) (local.get $name) (local.get $name_size)))
      (then (return (i32.const 0))))
    (if (i32.eq (local.get $size) (local.get $name_size))
      (then (return (i32.const 1))))
    (local.set $next (i32.load8_u (i32.add (local.get $value) (local.get $name_size))))
    (i32.or
      (i32.eq (local.get $next) (i32.const 0x3b)) ;; ";"
      (i32.or
        (i32.eq (local.get $next) (i32.const 0x20)) ;; space
        (i32.eq (local.get $next) (i32.const 0x09))))) ;; tab

  (func $lower_value
    (local $at i32)
    (local $end i32)
    (local $byte i32)
    (local.set $at (i32.load (global.get $VALUE_ADDRESS)))
    (local.set $end (i32.add (local.get $at) (i32.load (global.get $VALUE_SIZE))))
    (block $done
      (loop $bytes
        (br_if $done (i32.ge_u (local.get $at) (local.get $end)))
        (local.set $byte (i32.load8_u (local.get $at)))
        (if (i32.lt_u (i32.sub (local.get $byte) (i32.const 0x41)) (i32.const 26)) ;; "A" to "Z"
          (then (i32.store8 (local.get $at) (i32.or (local.get $byte) (i32.const 0x20)))))
        (local.set $at (i32.add (local.get $at) (i32.const 1)))
        (br $bytes))))

  ;; The media type in a header, $OTHER when it is absent.
  (func $media_type_in (param $map i32) (param $name i32) (param $name_size i32) (result i32)
    (if (i32.eqz (call $read_header (local.get $map) (local.get $name) (local.get $name_size)))
      (then (return (global.get $OTHER))))
    (call $lower_value)
    (if (call $is_media_type (global.get $APPLICATION_JSON) (i32.const 16))
      (then (return (global.get $JSON))))
    (if (call $is_media_type (global.get $APPLICATION_NDJSON) (i32.const 20))
      (then (return (global.get $NDJSON))))
    (if (call $is_media_type (global.get $TEXT_EVENT_STREAM) (i32.const 17))
      (then (return (global.get $EVENTS))))
    (global.get $OTHER))

  ;; The row of the surface whose path ends the request's path, or 0. The base URL of a backend may have a path before it.
  (func $surface_of_request (result i32)
    (local $row i32)
    (local $size i32)
    (local $path_size i32)
    (if (i32.eqz (call $read_header (global.get $REQUEST_HEADERS) (global.get $PATH) (i32.const 5)))
      (then (return (i32.const 0))))
    (local.set $path_size (i32.load (global.get $VALUE_SIZE)))
    (local.set $row (global.get $SURFACES))
    (block $none
      (loop $rows
        (br_if $none (i32.eq (local.get $row) (global.get $SURFACES_END)))
        (local.set $size (i32.load8_u (local.get $row)))
        (if (i32.ge_u (local.get $path_size) (local.get $size))
          (then
            (if (call $equal
                  (i32.add
                    (i32.load (global.get $VALUE_ADDRESS))
                    (i32.sub (local.get $path_size) (local.get $size)))
                  (i32.add (local.get $row) (i32.const 8))
                  (local.get $size))
              (then (return (local.get $row))))))
        (local.set $row (i32.add (local.get $row) (global.get $ROW_SIZE)))
        (br $rows)))
    (i32.const 0))

  ;; The hundreds of the status if it is not exactly 200, which gives 0.
  (func $status_class (result i32)
    (local $value i32)
    (if (i32.eqz (call $read_header (global.get $RESPONSE_HEADERS) (global.get $STATUS) (i32.const 7)))
      (then (return (i32.const 5))))
    (local.set $value (i32.load (global.get $VALUE_ADDRESS)))
    (if (i32.eq (i32.and (i32.load (local.get $value)) (i32.const 0xffffff)) (i32.const 0x303032)) ;; "200"
      (then (return (i32.const 0))))
    (i32.sub (i32.load8_u (local.get $value)) (i32.const 0x30)))

  ;; Whether an answer with these headers may be one of the surface. The meter writes one media type into `accept`.
  ;; Ollama answers a request for NDJSON with JSON when it only loads a model.
  (func $fits (param $node i32) (param $media i32) (result i32)
    (local $accepted i32)
    (if (call $read_header (global.get $RESPONSE_HEADERS) (global.get $CONTENT_ENCODING) (i32.const 16))
      (then (return (i32.const 0))))
    (if (i32.eqz (local.get $media))
      (then (return (i32.const 0))))
    (if (i32.ne (local.get $media) (global.get $JSON))
      (then
        (if (i32.ne (local.get $media) (i32.load8_u offset=3 (i32.load offset=8 (local.get $node))))
          (then (return (i32.const 0))))))
    (local.set $accepted (i32.load offset=56 (local.get $node)))
    (i32.or
      (i32.or (i32.eqz (local.get $accepted)) (i32.eq (local.get $accepted) (local.get $media)))
      (i32.and
        (i32.eq (local.get $accepted) (global.get $NDJSON))
        (i32.eq (local.get $media) (global.get $JSON)))))

  (func $refuse
    (drop
      (call $replace_header_map_value
        (global.get $RESPONSE_HEADERS)
        (global.get $STATUS) (i32.const 7)
        (global.get $NOT_AN_ANSWER) (i32.const 3)))
    (call $finish_list))

  ;; The number of the attempt of this request, 0 when it is unknown.
  (func $attempt (result i32)
    (if (i32.ne
          (call $get_property
            (global.get $ATTEMPT) (i32.const 30) (global.get $VALUE_ADDRESS) (global.get $VALUE_SIZE))
          (global.get $OK))
      (then (return (i32.const 0))))
    (i32.load (i32.load (global.get $VALUE_ADDRESS)))) ;; the lower half of a little-endian integer of 64 bits

  ;; The length of authz's list, 0 when it is unknown.
  (func $tries (result i32)
    (local $at i32)
    (local $end i32)
    (local $number i32)
    (if (i32.ne
          (call $get_property
            (global.get $TRIES) (i32.const 59) (global.get $VALUE_ADDRESS) (global.get $VALUE_SIZE))
          (global.get $OK))
      (then (return (i32.const 0))))
    (local.set $at (i32.load (global.get $VALUE_ADDRESS)))
    (local.set $end (i32.add (local.get $at) (i32.load (global.get $VALUE_SIZE))))
    (block $done
      (loop $digits
        (br_if $done (i32.ge_u (local.get $at) (local.get $end)))
        (local.set $number
          (i32.add
            (i32.mul (local.get $number) (i32.const 10))
            (i32.sub (i32.load8_u (local.get $at)) (i32.const 0x30))))
        (local.set $at (i32.add (local.get $at) (i32.const 1)))
        (br $digits)))
    (local.get $number))

  ;; Whether the list of authz has no further cluster than that of this attempt.
  (func $list_is_used (result i32)
    (local $tries i32)
    (local.set $tries (call $tries))
    (i32.and
      (i32.ne (local.get $tries) (i32.const 0))
      (i32.ge_u (call $attempt) (local.get $tries))))

  ;; The character of $WAS_BUSY.
  (func $previous_end (result i32)
    (if (i32.ne
          (call $get_property
            (global.get $WAS_BUSY) (i32.const 7) (global.get $VALUE_ADDRESS) (global.get $VALUE_SIZE))
          (global.get $OK))
      (then (return (i32.const 0x30))))
    (if (i32.eqz (i32.load (global.get $VALUE_SIZE)))
      (then (return (i32.const 0x30))))
    (i32.load8_u (i32.load (global.get $VALUE_ADDRESS))))

  ;; Answers an attempt that follows a final one, which ended in the way $end.
  (func $answer_for (param $end i32)
    (local $timed_out i32)
    (local.set $timed_out (i32.eq (local.get $end) (i32.const 0x32)))
    (drop
      (call $send_local_response
        (select (i32.const 504) (i32.const 503) (local.get $timed_out))
        (select (global.get $TIMED_OUT_DETAILS) (global.get $FAILED_DETAILS) (local.get $timed_out))
        (select (i32.const 17) (i32.const 14) (local.get $timed_out))
        (global.get $NO_RETRY) (i32.const 0)
        (global.get $NO_RETRY) (i32.const 0) (i32.const -1))))

  ;; Notes that an attempt ended by its timeout, when that is so. An answer that has passed has no node.
  (func $note_timeout (param $node i32)
    (if (i64.eqz (global.get $timeout_ns))
      (then (return)))
    (if (i64.eqz (i64.load offset=80 (local.get $node)))
      (then (return)))
    (drop (call $get_time (global.get $NOW)))
    (if (i64.ge_u
          (i64.sub (i64.load (global.get $NOW)) (i64.load offset=80 (local.get $node)))
          (global.get $timeout_ns))
      (then (call $set_busy (global.get $TIMED_OUT)))))

  (func $set_busy (param $value i32)
    (drop
      (call $set_property (global.get $WAS_BUSY) (i32.const 7) (local.get $value) (i32.const 1))))

  ;; Has the router pass this error on instead of another attempt, when the list is used.
  (func $finish_list
    (if (call $list_is_used)
      (then
        (drop
          (call $replace_header_map_value
            (global.get $RESPONSE_HEADERS)
            (global.get $NO_RETRY) (i32.const 19)
            (global.get $YES) (i32.const 1))))))

  ;; Whether the body, of $held_bytes, has the sentence of a busy server.
  (func $has_busy_sentence (param $held_bytes i32) (result i32)
    (local $at i32)
    (local $end i32)
    (if (i32.gt_u (local.get $held_bytes) (global.get $BUSY_BODY_MAX))
      (then (return (i32.const 0))))
    (if (i32.ne
          (call $get_buffer_bytes
            (global.get $RESPONSE_BODY) (i32.const 0) (local.get $held_bytes)
            (global.get $VALUE_ADDRESS) (global.get $VALUE_SIZE))
          (global.get $OK))
      (then (return (i32.const 0))))
    (local.set $at (i32.load (global.get $VALUE_ADDRESS)))
    (local.set $end
      (i32.sub
        (i32.add (local.get $at) (i32.load (global.get $VALUE_SIZE)))
        (global.get $BUSY_SENTENCE_SIZE)))
    (block $none
      (loop $places
        (br_if $none (i32.gt_s (local.get $at) (local.get $end)))
        (if (call $equal (local.get $at) (global.get $BUSY_SENTENCE) (global.get $BUSY_SENTENCE_SIZE))
          (then (return (i32.const 1))))
        (local.set $at (i32.add (local.get $at) (i32.const 1)))
        (br $places)))
    (i32.const 0))

  ;; Judges the whole body of a 503 on a surface.
  (func $judge_unavailable (param $held_bytes i32)
    (if (i32.eqz (call $has_busy_sentence (local.get $held_bytes)))
      (then
        (call $finish_list)
        (return)))
    (drop
      (call $replace_header_map_value
        (global.get $RESPONSE_HEADERS)
        (global.get $STATUS) (i32.const 7)
        (global.get $SERVER_BUSY) (i32.const 3)))
    (call $set_busy (global.get $YES))
    (if (call $list_is_used)
      (then
        (drop
          (call $replace_header_map_value
            (global.get $RESPONSE_HEADERS)
            (global.get $RETRY_AFTER) (i32.const 16)
            (global.get $YES) (i32.const 1))))))

  ;; Whether the status is 503.
  (func $is_unavailable (result i32)
    (if (i32.eqz (call $read_header (global.get $RESPONSE_HEADERS) (global.get $STATUS) (i32.const 7)))
      (then (return (i32.const 0))))
    (i32.eq
      (i32.and (i32.load (i32.load (global.get $VALUE_ADDRESS))) (i32.const 0xffffff))
      (i32.const 0x333035))) ;; "503"

  (func $mark_as_whole
    (drop
      (call $replace_header_map_value
        (global.get $RESPONSE_HEADERS)
        (global.get $HELD_WHOLE) (i32.const 15)
        (global.get $YES) (i32.const 1))))

  ;; Judges an outermost member by its name and the first two bytes of its value. Ollama's /v1 surfaces report a failure
  ;; of their model as a chunk with the model "".
  (func $judge_member (param $node i32) (param $second i32)
    (local $name i32)
    (local $name_size i32)
    (local $first i32)
    (local $surface i32)
    (local $wanted i32)
    (local $wanted_size i32)
    (local $is_right i32)
    (local.set $name (i32.add (local.get $node) (i32.const 64)))
    (local.set $name_size (i32.load offset=36 (local.get $node)))
    (local.set $first (i32.load offset=40 (local.get $node)))
    (local.set $surface (i32.load offset=8 (local.get $node)))
    (if (i32.eq (local.get $name_size) (i32.const 5))
      (then
        (if (i32.or
              (i32.and
                (call $equal (local.get $name) (global.get $ERROR) (i32.const 5))
                (i32.ne (local.get $first) (i32.const 0x6e))) ;; the "n" of null
              (i32.and
                (call $equal (local.get $name) (global.get $MODEL) (i32.const 5))
                (i32.and
                  (i32.eq (local.get $first) (i32.const 0x22))
                  (i32.eq (local.get $second) (i32.const 0x22)))))
          (then (i32.store offset=48 (local.get $node) (i32.const 1))))))
    (if (i32.eq (i32.load offset=12 (local.get $node)) (global.get $JSON))
      (then
        (local.set $wanted (i32.add (local.get $surface) (i32.const 32)))
        (local.set $wanted_size (i32.load8_u offset=1 (local.get $surface)))
        (local.set $is_right
          (i32.or
            (i32.eq (local.get $first) (i32.load8_u offset=4 (local.get $surface)))
            (i32.eq (local.get $first) (i32.load8_u offset=5 (local.get $surface))))))
      (else
        (local.set $wanted (i32.add (local.get $surface) (i32.const 48)))
        (local.set $wanted_size (i32.load8_u offset=2 (local.get $surface)))
        (local.set $is_right (i32.eq (local.get $first) (i32.load8_u offset=6 (local.get $surface))))))
    (if (i32.eq (local.get $name_size) (local.get $wanted_size))
      (then
        (if (i32.and
              (local.get $is_right)
              (call $equal (local.get $name) (local.get $wanted) (local.get $wanted_size)))
          (then (i32.store offset=44 (local.get $node) (i32.const 1)))))))

  (func $is_blank (param $byte i32) (result i32)
    (i32.or
      (i32.or (i32.eq (local.get $byte) (i32.const 0x20)) (i32.eq (local.get $byte) (i32.const 0x0a)))
      (i32.or (i32.eq (local.get $byte) (i32.const 0x0d)) (i32.eq (local.get $byte) (i32.const 0x09)))))

  ;; A byte before the first object. An event's object begins after "data:", and other lines are skipped.
  (func $before (param $node i32) (param $byte i32)
    (local $line i32)
    (if (i32.eq (i32.load offset=12 (local.get $node)) (global.get $EVENTS))
      (then
        (local.set $line (i32.load offset=52 (local.get $node)))
        (if (i32.eq (local.get $byte) (i32.const 0x0a))
          (then
            (i32.store offset=52 (local.get $node) (i32.const 0))
            (return)))
        (if (i32.ne (local.get $line) (i32.const 5))
          (then
            (i32.store offset=52 (local.get $node)
              (select
                (i32.add (local.get $line) (i32.const 1))
                (i32.const -1)
                (i32.and
                  (i32.ge_s (local.get $line) (i32.const 0))
                  (i32.eq
                    (local.get $byte)
                    (i32.load8_u (i32.add (global.get $DATA) (local.get $line)))))))
            (return)))))
    (if (call $is_blank (local.get $byte))
      (then (return)))
    (if (i32.ne (local.get $byte) (i32.const 0x7b)) ;; "{"
      (then
        (i32.store offset=48 (local.get $node) (i32.const 1))
        (return)))
    (i32.store offset=20 (local.get $node) (global.get $WITHIN))
    (i32.store offset=24 (local.get $node) (i32.const 1)))

  ;; A byte of a string. The bytes of an outermost member's name are kept.
  (func $within_string (param $node i32) (param $byte i32)
    (local $size i32)
    (if (i32.eq (i32.load offset=28 (local.get $node)) (i32.const 2))
      (then (i32.store offset=28 (local.get $node) (i32.const 1)))
      (else
        (if (i32.eq (local.get $byte) (i32.const 0x22))
          (then
            (i32.store offset=28 (local.get $node) (i32.const 0))
            (return)))
        (if (i32.eq (local.get $byte) (i32.const 0x5c)) ;; "\"
          (then (i32.store offset=28 (local.get $node) (i32.const 2))))))
    (if (i32.eq (i32.load offset=32 (local.get $node)) (global.get $NAME))
      (then
        (local.set $size (i32.load offset=36 (local.get $node)))
        (if (i32.lt_u (local.get $size) (global.get $NAME_SIZE_MAX))
          (then
            (i32.store8 offset=64 (i32.add (local.get $node) (local.get $size)) (local.get $byte))))
        (i32.store offset=36 (local.get $node) (i32.add (local.get $size) (i32.const 1))))))

  (func $open_string (param $node i32)
    (i32.store offset=28 (local.get $node) (i32.const 1))
    (if (i32.and
          (i32.eq (i32.load offset=24 (local.get $node)) (i32.const 1))
          (i32.eq (i32.load offset=32 (local.get $node)) (global.get $NOTHING)))
      (then
        (i32.store offset=32 (local.get $node) (global.get $NAME))
        (i32.store offset=36 (local.get $node) (i32.const 0)))))

  (func $close_bracket (param $node i32)
    (local $depth i32)
    (local.set $depth (i32.sub (i32.load offset=24 (local.get $node)) (i32.const 1)))
    (i32.store offset=24 (local.get $node) (local.get $depth))
    (if (i32.eqz (local.get $depth))
      (then
        (i32.store offset=20 (local.get $node) (global.get $AFTER))
        (if (i32.eqz (i32.load offset=44 (local.get $node)))
          (then (i32.store offset=48 (local.get $node) (i32.const 1)))))))

  ;; A byte of the first object.
  (func $within (param $node i32) (param $byte i32)
    (if (i32.eq (i32.load offset=32 (local.get $node)) (global.get $VALUE_SECOND))
      (then
        (call $judge_member (local.get $node) (local.get $byte))
        (i32.store offset=32 (local.get $node) (global.get $VALUE_REST))))
    (if (i32.load offset=28 (local.get $node))
      (then
        (call $within_string (local.get $node) (local.get $byte))
        (return)))
    (if (call $is_blank (local.get $byte))
      (then (return)))
    (if (i32.eq (i32.load offset=32 (local.get $node)) (global.get $VALUE_FIRST))
      (then
        (i32.store offset=40 (local.get $node) (local.get $byte))
        (i32.store offset=32 (local.get $node) (global.get $VALUE_SECOND))))
    (if (i32.eq (local.get $byte) (i32.const 0x22))
      (then
        (call $open_string (local.get $node))
        (return)))
    (if (i32.or (i32.eq (local.get $byte) (i32.const 0x7b)) (i32.eq (local.get $byte) (i32.const 0x5b))) ;; "{", "["
      (then
        (i32.store offset=24 (local.get $node) (i32.add (i32.load offset=24 (local.get $node)) (i32.const 1)))
        (return)))
    (if (i32.or (i32.eq (local.get $byte) (i32.const 0x7d)) (i32.eq (local.get $byte) (i32.const 0x5d))) ;; "}", "]"
      (then
        (call $close_bracket (local.get $node))
        (return)))
    (if (i32.ne (i32.load offset=24 (local.get $node)) (i32.const 1))
      (then (return)))
    (if (i32.eq (local.get $byte) (i32.const 0x2c)) ;; ","
      (then (i32.store offset=32 (local.get $node) (global.get $NOTHING))))
    (if (i32.and
          (i32.eq (local.get $byte) (i32.const 0x3a)) ;; ":"
          (i32.eq (i32.load offset=32 (local.get $node)) (global.get $NAME)))
      (then (i32.store offset=32 (local.get $node) (global.get $VALUE_FIRST)))))

  ;; Reads the body on from where it was read to. Nothing after the first frame of a stream is read.
  (func $read_body (param $node i32) (param $held_bytes i32)
    (local $at i32)
    (local $end i32)
    (local $position i32)
    (local $stage i32)
    (block $done
      (loop $pieces
        (local.set $position (i32.load offset=16 (local.get $node)))
        (br_if $done (i32.ge_u (local.get $position) (local.get $held_bytes)))
        (br_if $done
          (i32.ne
            (call $get_buffer_bytes
              (global.get $RESPONSE_BODY)
              (local.get $position)
              (select
                (i32.sub (local.get $held_bytes) (local.get $position))
                (global.get $VALUE_SIZE_MAX)
                (i32.lt_u (i32.sub (local.get $held_bytes) (local.get $position)) (global.get $VALUE_SIZE_MAX)))
              (global.get $VALUE_ADDRESS) (global.get $VALUE_SIZE))
            (global.get $OK)))
        (br_if $done (i32.eqz (i32.load (global.get $VALUE_SIZE))))
        (local.set $at (i32.load (global.get $VALUE_ADDRESS)))
        (local.set $end (i32.add (local.get $at) (i32.load (global.get $VALUE_SIZE))))
        (i32.store offset=16 (local.get $node)
          (i32.add (local.get $position) (i32.load (global.get $VALUE_SIZE))))
        (loop $bytes
          (br_if $done (i32.load offset=48 (local.get $node)))
          (local.set $stage (i32.load offset=20 (local.get $node)))
          (if (i32.eq (local.get $stage) (global.get $WITHIN))
            (then (call $within (local.get $node) (i32.load8_u (local.get $at))))
            (else
              (if (i32.eq (local.get $stage) (global.get $BEFORE))
                (then (call $before (local.get $node) (i32.load8_u (local.get $at))))
                (else
                  (br_if $done (i32.ne (i32.load offset=12 (local.get $node)) (global.get $JSON)))
                  (if (i32.eqz (call $is_blank (i32.load8_u (local.get $at))))
                    (then (i32.store offset=48 (local.get $node) (i32.const 1))))))))
          (local.set $at (i32.add (local.get $at) (i32.const 1)))
          (br_if $bytes (i32.lt_u (local.get $at) (local.get $end))))
        (br $pieces))))

  ;; Whether the answer still has to be held, after $held_bytes of its body. Refuses it when it is none.
  (func $awaits_more (param $node i32) (param $held_bytes i32) (param $end_of_stream i32) (result i32)
    (local $is_complete i32)
    (call $read_body (local.get $node) (local.get $held_bytes))
    (local.set $is_complete (i32.eq (i32.load offset=20 (local.get $node)) (global.get $AFTER)))
    (if (i32.load offset=48 (local.get $node))
      (then
        (call $refuse)
        (return (i32.const 0))))
    (if (local.get $end_of_stream)
      (then
        (if (i32.eqz (local.get $is_complete))
          (then (call $refuse))
          (else
            (if (i32.eq (i32.load offset=12 (local.get $node)) (global.get $JSON))
              (then (call $mark_as_whole)))))
        (return (i32.const 0))))
    (if (i32.gt_u (local.get $held_bytes) (global.get $HELD_BYTES_MAX))
      (then
        (if (i32.eqz (i32.load offset=44 (local.get $node)))
          (then (call $refuse)))
        (return (i32.const 0))))
    (i32.or
      (i32.eqz (local.get $is_complete))
      (i32.eq (i32.load offset=12 (local.get $node)) (global.get $JSON))))

  ;; Declares the ABI version to the host. It is never called.
  (func (export "proxy_abi_version_0_2_1"))

  ;; The address to which the host may write $size bytes. 0 refuses, and the host then fails the call that needed them.
  ;; All values share one address, because each is read before the next is requested.
  (func (export "proxy_on_memory_allocate") (param $size i32) (result i32)
    (select
      (global.get $VALUE)
      (i32.const 0)
      (i32.le_u (local.get $size) (global.get $VALUE_SIZE_MAX))))

  ;; Envoy offers the headers of the request only during this callback.
  (func (export "proxy_on_request_headers")
      (param $stream i32) (param $header_count i32) (param $end_of_stream i32) (result i32)
    (local $surface i32)
    (local $node i32)
    (local $attempt i32)
    (local $tries i32)
    (local $end i32)
    (local.set $attempt (call $attempt))
    (if (i32.gt_u (local.get $attempt) (i32.const 1))
      (then
        (local.set $tries (call $tries))
        (if (local.get $tries)
          (then
            (if (i32.gt_u (local.get $attempt) (local.get $tries))
              (then
                (local.set $end (call $previous_end))
                (if (i32.ne (local.get $end) (i32.const 0x31))
                  (then
                    (call $answer_for (local.get $end))
                    (return (global.get $PAUSE))))))
            (drop
              (call $replace_header_map_value
                (global.get $REQUEST_HEADERS)
                (global.get $FURTHER_ATTEMPT) (i32.const 12)
                (global.get $YES) (i32.const 1)))))
        (call $set_busy (global.get $NO))))
    (local.set $surface (call $surface_of_request))
    (if (local.get $surface)
      (then
        (local.set $node (call $hold (local.get $stream)))
        (if (local.get $node)
          (then
            (drop (call $get_time (i32.add (local.get $node) (i32.const 80))))
            (i32.store offset=8 (local.get $node) (local.get $surface))
            (i32.store offset=56 (local.get $node)
              (call $media_type_in (global.get $REQUEST_HEADERS) (global.get $ACCEPT) (i32.const 6)))))))
    (global.get $CONTINUE))

  ;; A node that remains afterwards is one of an answer whose body is held.
  (func (export "proxy_on_response_headers")
      (param $stream i32) (param $header_count i32) (param $end_of_stream i32) (result i32)
    (local $node i32)
    (local $media i32)
    (local $status i32)
    (local $busy i32)
    (local.set $node (call $node_of (local.get $stream)))
    (local.set $media (call $media_type_in (global.get $RESPONSE_HEADERS) (global.get $CONTENT_TYPE) (i32.const 12)))
    (if (local.get $node)
      (then
        (local.set $status (call $status_class))
        (if (i32.or (i32.eqz (local.get $status)) (i32.eq (local.get $status) (i32.const 2)))
          (then
            (if (i32.or
                  (i32.or (local.get $status) (local.get $end_of_stream))
                  (i32.eqz (call $fits (local.get $node) (local.get $media))))
              (then
                (call $refuse)
                (call $let_go (local.get $stream)))
              (else (i32.store offset=12 (local.get $node) (local.get $media))))
            (return (select (global.get $CONTINUE) (global.get $PAUSE) (local.get $end_of_stream)))))
        (call $let_go (local.get $stream))
        (local.set $busy
          (i32.and
            (i32.and (i32.eq (local.get $media) (global.get $JSON)) (i32.eqz (local.get $end_of_stream)))
            (call $is_unavailable)))
        (if (i32.and (i32.eq (local.get $status) (i32.const 5)) (i32.eqz (local.get $busy)))
          (then (call $finish_list)))))
    (if (local.get $end_of_stream)
      (then (return (global.get $CONTINUE))))
    (if (i32.eq (local.get $media) (global.get $JSON))
      (then
        (local.set $node (call $hold (local.get $stream)))
        (if (local.get $node)
          (then (i32.store offset=60 (local.get $node) (local.get $busy)))
          (else
            (if (local.get $busy)
              (then (call $finish_list)))))))
    (global.get $PAUSE))

  ;; $held_bytes counts the new chunk and all that are held with it.
  (func (export "proxy_on_response_body")
      (param $stream i32) (param $held_bytes i32) (param $end_of_stream i32) (result i32)
    (local $node i32)
    (local.set $node (call $node_of (local.get $stream)))
    (if (local.get $node)
      (then
        (if (i32.load offset=8 (local.get $node))
          (then
            (if (call $awaits_more (local.get $node) (local.get $held_bytes) (local.get $end_of_stream))
              (then (return (global.get $PAUSE))))
            (call $let_go (local.get $stream))
            (return (global.get $CONTINUE))))
        (if (i32.and (local.get $end_of_stream) (i32.load offset=60 (local.get $node)))
          (then (call $judge_unavailable (local.get $held_bytes))))))
    (if (local.get $end_of_stream)
      (then (return (global.get $CONTINUE))))
    (if (i32.eqz (local.get $held_bytes)) ;; an empty chunk has no first byte
      (then (return (global.get $PAUSE))))
    (if (i32.eqz (local.get $node))
      (then (return (global.get $CONTINUE))))
    (if (i32.gt_u (local.get $held_bytes) (global.get $HELD_BYTES_MAX))
      (then
        (call $let_go (local.get $stream))
        (return (global.get $CONTINUE))))
    (global.get $PAUSE))

  ;; Envoy calls this at the end of every stream. The id may be used again.
  (func (export "proxy_on_delete") (param $stream i32)
    (call $let_go (local.get $stream)))

  ;; Envoy calls this at the end of every stream, before it deletes it.
  (func (export "proxy_on_done") (param $stream i32) (result i32)
    (local $node i32)
    (local.set $node (call $node_of (local.get $stream)))
    (if (local.get $node)
      (then (call $note_timeout (local.get $node))))
    (i32.const 1))

  ;; Reads the timeout of an attempt.
  (func (export "proxy_on_configure") (param $root i32) (param $size i32) (result i32)
    (local $number i64)
    (local $at i32)
    (local $end i32)
    (if (i32.eqz (local.get $size))
      (then (return (i32.const 1))))
    (if (i32.ne
          (call $get_buffer_bytes
            (global.get $PLUGIN_CONFIGURATION) (i32.const 0) (local.get $size)
            (global.get $VALUE_ADDRESS) (global.get $VALUE_SIZE))
          (global.get $OK))
      (then (return (i32.const 0))))
    (local.set $at (i32.load (global.get $VALUE_ADDRESS)))
    (local.set $end (i32.add (local.get $at) (i32.load (global.get $VALUE_SIZE))))
    (block $done
      (loop $digits
        (br_if $done (i32.ge_u (local.get $at) (local.get $end)))
        (local.set $number
          (i64.add
            (i64.mul (local.get $number) (i64.const 10))
            (i64.extend_i32_u (i32.sub (i32.load8_u (local.get $at)) (i32.const 0x30)))))
        (local.set $at (i32.add (local.get $at) (i32.const 1)))
        (br $digits)))
    (global.set $timeout_ns (i64.mul (local.get $number) (i64.const 875000)))
    (i32.const 1)))
