CREATE TABLE dead_letters (
	id BIGSERIAL NOT NULL,
	source VARCHAR(64) COLLATE "C" NOT NULL,
	consumer_group VARCHAR(255) COLLATE "C" NOT NULL,
	instance VARCHAR(64) COLLATE "C" NOT NULL,
	broker VARCHAR(100) COLLATE "C" NOT NULL,
	system_topic VARCHAR(270) COLLATE "C" NOT NULL,
	queue_id INTEGER NOT NULL,
	transport_id VARCHAR(128) COLLATE "C" NOT NULL,
	origin_id VARCHAR(128) COLLATE "C" NOT NULL,
	queue_offset BIGINT NOT NULL,
	tag VARCHAR(255) COLLATE "C" NOT NULL,
	keys_ TEXT COLLATE "C" NOT NULL,
	born_at BIGINT NOT NULL,
	attempt INTEGER NOT NULL,
	reason VARCHAR(64) COLLATE "C" NOT NULL,
	detail TEXT COLLATE "C" NOT NULL,
	body BYTEA NOT NULL,
	dead_at BIGINT NOT NULL,
	PRIMARY KEY (id),
	UNIQUE (source, transport_id)
);
CREATE TABLE gaps (
	id BIGSERIAL NOT NULL,
	source VARCHAR(64) COLLATE "C" NOT NULL,
	consumer_group VARCHAR(255) COLLATE "C" NOT NULL,
	instance VARCHAR(64) COLLATE "C" NOT NULL,
	broker VARCHAR(100) COLLATE "C" NOT NULL,
	system_topic VARCHAR(270) COLLATE "C" NOT NULL,
	queue_id INTEGER NOT NULL,
	first_offset BIGINT NOT NULL,
	last_offset BIGINT NOT NULL,
	reason VARCHAR(255) COLLATE "C" NOT NULL,
	noted_at BIGINT NOT NULL,
	PRIMARY KEY (id)
);
CREATE TABLE logistics_traces (
	message_key VARCHAR(128) COLLATE "C" NOT NULL,
	tid VARCHAR(32) COLLATE "C" NOT NULL,
	seller VARCHAR(128) COLLATE "C" NOT NULL,
	user_id VARCHAR(32) COLLATE "C" NOT NULL,
	out_sid VARCHAR(128) COLLATE "C",
	company_name VARCHAR(128) COLLATE "C",
	action VARCHAR(64) COLLATE "C",
	description TEXT COLLATE "C",
	traced_at BIGINT,
	published_at BIGINT NOT NULL,
	PRIMARY KEY (message_key)
);
CREATE INDEX logistics_traces_tid ON logistics_traces (tid);
CREATE TABLE messages (
	id BIGSERIAL NOT NULL,
	message_key VARCHAR(128) COLLATE "C" NOT NULL,
	source VARCHAR(64) COLLATE "C" NOT NULL,
	topic VARCHAR(128) COLLATE "C" NOT NULL,
	seller VARCHAR(128) COLLATE "C" NOT NULL,
	user_id VARCHAR(32) COLLATE "C" NOT NULL,
	tid VARCHAR(32) COLLATE "C",
	oid VARCHAR(32) COLLATE "C",
	refund_id VARCHAR(32) COLLATE "C",
	num_iid VARCHAR(32) COLLATE "C",
	published_at BIGINT NOT NULL,
	published_from VARCHAR(16) COLLATE "C" NOT NULL,
	born_at BIGINT NOT NULL,
	landed_at BIGINT NOT NULL,
	body_hash BIGINT NOT NULL,
	body BYTEA NOT NULL,
	PRIMARY KEY (id),
	UNIQUE (message_key)
);
CREATE INDEX messages_landed ON messages (landed_at);
CREATE INDEX messages_seller ON messages (seller, published_at);
CREATE INDEX messages_tid ON messages (tid);
CREATE TABLE positions (
	source VARCHAR(64) COLLATE "C" NOT NULL,
	consumer_group VARCHAR(255) COLLATE "C" NOT NULL,
	instance VARCHAR(64) COLLATE "C" NOT NULL,
	broker VARCHAR(100) COLLATE "C" NOT NULL,
	system_topic VARCHAR(270) COLLATE "C" NOT NULL,
	queue_id INTEGER NOT NULL,
	next_offset BIGINT NOT NULL,
	updated_at BIGINT NOT NULL,
	PRIMARY KEY (source, consumer_group, instance, broker, system_topic, queue_id)
);
CREATE TABLE refunds (
	refund_id VARCHAR(32) COLLATE "C" NOT NULL,
	published_at BIGINT NOT NULL,
	order_rank INTEGER NOT NULL,
	message_key VARCHAR(128) COLLATE "C" NOT NULL,
	older TEXT COLLATE "C" NOT NULL,
	seller VARCHAR(128) COLLATE "C" NOT NULL,
	user_id VARCHAR(32) COLLATE "C" NOT NULL,
	topic VARCHAR(128) COLLATE "C" NOT NULL,
	tid VARCHAR(32) COLLATE "C",
	oid VARCHAR(32) COLLATE "C",
	refund_fee NUMERIC(18, 2),
	refund_phase VARCHAR(64) COLLATE "C",
	bill_type VARCHAR(64) COLLATE "C",
	buyer_nick VARCHAR(128) COLLATE "C",
	buyer_open_uid VARCHAR(128) COLLATE "C",
	modified_at BIGINT,
	PRIMARY KEY (refund_id)
);
CREATE INDEX refunds_tid ON refunds (tid);
CREATE TABLE schema_migrations (
	version INTEGER NOT NULL,
	applied_at BIGINT NOT NULL,
	PRIMARY KEY (version)
);
CREATE TABLE trade_lines (
	tid VARCHAR(32) COLLATE "C" NOT NULL,
	oid VARCHAR(32) COLLATE "C" NOT NULL,
	published_at BIGINT NOT NULL,
	order_rank INTEGER NOT NULL,
	message_key VARCHAR(128) COLLATE "C" NOT NULL,
	older TEXT COLLATE "C" NOT NULL,
	seller VARCHAR(128) COLLATE "C" NOT NULL,
	user_id VARCHAR(32) COLLATE "C" NOT NULL,
	topic VARCHAR(128) COLLATE "C" NOT NULL,
	status VARCHAR(64) COLLATE "C",
	payment NUMERIC(18, 2),
	num_iid VARCHAR(32) COLLATE "C",
	sku_id VARCHAR(32) COLLATE "C",
	PRIMARY KEY (tid, oid)
);
CREATE TABLE trades (
	tid VARCHAR(32) COLLATE "C" NOT NULL,
	published_at BIGINT NOT NULL,
	order_rank INTEGER NOT NULL,
	message_key VARCHAR(128) COLLATE "C" NOT NULL,
	older TEXT COLLATE "C" NOT NULL,
	seller VARCHAR(128) COLLATE "C" NOT NULL,
	user_id VARCHAR(32) COLLATE "C" NOT NULL,
	topic VARCHAR(128) COLLATE "C" NOT NULL,
	status VARCHAR(64) COLLATE "C",
	payment NUMERIC(18, 2),
	post_fee NUMERIC(18, 2),
	type VARCHAR(64) COLLATE "C",
	buyer_nick VARCHAR(128) COLLATE "C",
	buyer_open_uid VARCHAR(128) COLLATE "C",
	seller_memo TEXT COLLATE "C",
	seller_flag INTEGER,
	PRIMARY KEY (tid)
);
DROP VIEW IF EXISTS v_dead_letters;
CREATE VIEW v_dead_letters AS SELECT id, source, consumer_group, instance, broker, system_topic, queue_id, transport_id, origin_id, queue_offset, tag, keys_, CASE WHEN born_at BETWEEN -62135596800000 AND 253402271999999 THEN to_char(to_timestamp(born_at / 1000.0) AT TIME ZONE INTERVAL '8 hours', 'YYYY-MM-DD HH24:MI:SS.MS') END AS born_at, attempt, reason, detail, CASE WHEN dead_at BETWEEN -62135596800000 AND 253402271999999 THEN to_char(to_timestamp(dead_at / 1000.0) AT TIME ZONE INTERVAL '8 hours', 'YYYY-MM-DD HH24:MI:SS.MS') END AS dead_at FROM dead_letters;
DROP VIEW IF EXISTS v_gaps;
CREATE VIEW v_gaps AS SELECT id, source, consumer_group, instance, broker, system_topic, queue_id, first_offset, last_offset, reason, CASE WHEN noted_at BETWEEN -62135596800000 AND 253402271999999 THEN to_char(to_timestamp(noted_at / 1000.0) AT TIME ZONE INTERVAL '8 hours', 'YYYY-MM-DD HH24:MI:SS.MS') END AS noted_at FROM gaps;
DROP VIEW IF EXISTS v_logistics_traces;
CREATE VIEW v_logistics_traces AS SELECT message_key, tid, seller, user_id, out_sid, company_name, action, description, CASE WHEN traced_at BETWEEN -62135596800000 AND 253402271999999 THEN to_char(to_timestamp(traced_at / 1000.0) AT TIME ZONE INTERVAL '8 hours', 'YYYY-MM-DD HH24:MI:SS.MS') END AS traced_at, CASE WHEN published_at BETWEEN -62135596800000 AND 253402271999999 THEN to_char(to_timestamp(published_at / 1000.0) AT TIME ZONE INTERVAL '8 hours', 'YYYY-MM-DD HH24:MI:SS.MS') END AS published_at FROM logistics_traces;
DROP VIEW IF EXISTS v_messages;
CREATE VIEW v_messages AS SELECT id, message_key, source, topic, seller, user_id, tid, oid, refund_id, num_iid, CASE WHEN published_at BETWEEN -62135596800000 AND 253402271999999 THEN to_char(to_timestamp(published_at / 1000.0) AT TIME ZONE INTERVAL '8 hours', 'YYYY-MM-DD HH24:MI:SS.MS') END AS published_at, published_from, CASE WHEN born_at BETWEEN -62135596800000 AND 253402271999999 THEN to_char(to_timestamp(born_at / 1000.0) AT TIME ZONE INTERVAL '8 hours', 'YYYY-MM-DD HH24:MI:SS.MS') END AS born_at, CASE WHEN landed_at BETWEEN -62135596800000 AND 253402271999999 THEN to_char(to_timestamp(landed_at / 1000.0) AT TIME ZONE INTERVAL '8 hours', 'YYYY-MM-DD HH24:MI:SS.MS') END AS landed_at FROM messages;
DROP VIEW IF EXISTS v_positions;
CREATE VIEW v_positions AS SELECT source, consumer_group, instance, broker, system_topic, queue_id, next_offset, CASE WHEN updated_at BETWEEN -62135596800000 AND 253402271999999 THEN to_char(to_timestamp(updated_at / 1000.0) AT TIME ZONE INTERVAL '8 hours', 'YYYY-MM-DD HH24:MI:SS.MS') END AS updated_at FROM positions;
DROP VIEW IF EXISTS v_refunds;
CREATE VIEW v_refunds AS SELECT refund_id, CASE WHEN published_at BETWEEN -62135596800000 AND 253402271999999 THEN to_char(to_timestamp(published_at / 1000.0) AT TIME ZONE INTERVAL '8 hours', 'YYYY-MM-DD HH24:MI:SS.MS') END AS published_at, message_key, seller, user_id, topic, tid, oid, refund_fee, refund_phase, bill_type, buyer_nick, buyer_open_uid, CASE WHEN modified_at BETWEEN -62135596800000 AND 253402271999999 THEN to_char(to_timestamp(modified_at / 1000.0) AT TIME ZONE INTERVAL '8 hours', 'YYYY-MM-DD HH24:MI:SS.MS') END AS modified_at FROM refunds;
DROP VIEW IF EXISTS v_schema_migrations;
CREATE VIEW v_schema_migrations AS SELECT version, CASE WHEN applied_at BETWEEN -62135596800000 AND 253402271999999 THEN to_char(to_timestamp(applied_at / 1000.0) AT TIME ZONE INTERVAL '8 hours', 'YYYY-MM-DD HH24:MI:SS.MS') END AS applied_at FROM schema_migrations;
DROP VIEW IF EXISTS v_trade_lines;
CREATE VIEW v_trade_lines AS SELECT tid, oid, CASE WHEN published_at BETWEEN -62135596800000 AND 253402271999999 THEN to_char(to_timestamp(published_at / 1000.0) AT TIME ZONE INTERVAL '8 hours', 'YYYY-MM-DD HH24:MI:SS.MS') END AS published_at, message_key, seller, user_id, topic, status, payment, num_iid, sku_id FROM trade_lines;
DROP VIEW IF EXISTS v_trades;
CREATE VIEW v_trades AS SELECT tid, CASE WHEN published_at BETWEEN -62135596800000 AND 253402271999999 THEN to_char(to_timestamp(published_at / 1000.0) AT TIME ZONE INTERVAL '8 hours', 'YYYY-MM-DD HH24:MI:SS.MS') END AS published_at, message_key, seller, user_id, topic, status, payment, post_fee, type, buyer_nick, buyer_open_uid, seller_memo, seller_flag FROM trades;
INSERT INTO schema_migrations (version, applied_at) VALUES (1, 1668100000000);
