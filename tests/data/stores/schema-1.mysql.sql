CREATE TABLE dead_letters (
	id BIGINT NOT NULL AUTO_INCREMENT,
	source VARCHAR(64) NOT NULL,
	consumer_group VARCHAR(255) NOT NULL,
	instance VARCHAR(64) NOT NULL,
	broker VARCHAR(100) NOT NULL,
	system_topic VARCHAR(270) NOT NULL,
	queue_id INTEGER NOT NULL,
	transport_id VARCHAR(128) NOT NULL,
	origin_id VARCHAR(128) NOT NULL,
	queue_offset BIGINT NOT NULL,
	tag VARCHAR(255) NOT NULL,
	keys_ MEDIUMTEXT NOT NULL,
	born_at BIGINT NOT NULL,
	attempt INTEGER NOT NULL,
	reason VARCHAR(64) NOT NULL,
	detail MEDIUMTEXT NOT NULL,
	body MEDIUMBLOB NOT NULL,
	dead_at BIGINT NOT NULL,
	PRIMARY KEY (id),
	UNIQUE (source, transport_id)
)ENGINE=InnoDB CHARSET=utf8mb4 COLLATE utf8mb4_bin;
CREATE TABLE gaps (
	id BIGINT NOT NULL AUTO_INCREMENT,
	source VARCHAR(64) NOT NULL,
	consumer_group VARCHAR(255) NOT NULL,
	instance VARCHAR(64) NOT NULL,
	broker VARCHAR(100) NOT NULL,
	system_topic VARCHAR(270) NOT NULL,
	queue_id INTEGER NOT NULL,
	first_offset BIGINT NOT NULL,
	last_offset BIGINT NOT NULL,
	reason VARCHAR(255) NOT NULL,
	noted_at BIGINT NOT NULL,
	PRIMARY KEY (id)
)ENGINE=InnoDB CHARSET=utf8mb4 COLLATE utf8mb4_bin;
CREATE TABLE logistics_traces (
	message_key VARCHAR(128) NOT NULL,
	tid VARCHAR(32) NOT NULL,
	seller VARCHAR(128) NOT NULL,
	user_id VARCHAR(32) NOT NULL,
	out_sid VARCHAR(128),
	company_name VARCHAR(128),
	action VARCHAR(64),
	description MEDIUMTEXT,
	traced_at BIGINT,
	published_at BIGINT NOT NULL,
	PRIMARY KEY (message_key)
)ENGINE=InnoDB CHARSET=utf8mb4 COLLATE utf8mb4_bin;
CREATE INDEX logistics_traces_tid ON logistics_traces (tid);
CREATE TABLE messages (
	id BIGINT NOT NULL AUTO_INCREMENT,
	message_key VARCHAR(128) NOT NULL,
	source VARCHAR(64) NOT NULL,
	topic VARCHAR(128) NOT NULL,
	seller VARCHAR(128) NOT NULL,
	user_id VARCHAR(32) NOT NULL,
	tid VARCHAR(32),
	oid VARCHAR(32),
	refund_id VARCHAR(32),
	num_iid VARCHAR(32),
	published_at BIGINT NOT NULL,
	published_from VARCHAR(16) NOT NULL,
	born_at BIGINT NOT NULL,
	landed_at BIGINT NOT NULL,
	body_hash BIGINT NOT NULL,
	body MEDIUMBLOB NOT NULL,
	PRIMARY KEY (id),
	UNIQUE (message_key)
)ENGINE=InnoDB CHARSET=utf8mb4 COLLATE utf8mb4_bin;
CREATE INDEX messages_landed ON messages (landed_at);
CREATE INDEX messages_seller ON messages (seller, published_at);
CREATE INDEX messages_tid ON messages (tid);
CREATE TABLE positions (
	source VARCHAR(64) NOT NULL,
	consumer_group VARCHAR(255) NOT NULL,
	instance VARCHAR(64) NOT NULL,
	broker VARCHAR(100) NOT NULL,
	system_topic VARCHAR(270) NOT NULL,
	queue_id INTEGER NOT NULL,
	next_offset BIGINT NOT NULL,
	updated_at BIGINT NOT NULL,
	PRIMARY KEY (source, consumer_group, instance, broker, system_topic, queue_id)
)ENGINE=InnoDB CHARSET=utf8mb4 COLLATE utf8mb4_bin;
CREATE TABLE refunds (
	refund_id VARCHAR(32) NOT NULL,
	published_at BIGINT NOT NULL,
	order_rank INTEGER NOT NULL,
	message_key VARCHAR(128) NOT NULL,
	older MEDIUMTEXT NOT NULL,
	seller VARCHAR(128) NOT NULL,
	user_id VARCHAR(32) NOT NULL,
	topic VARCHAR(128) NOT NULL,
	tid VARCHAR(32),
	oid VARCHAR(32),
	refund_fee NUMERIC(18, 2),
	refund_phase VARCHAR(64),
	bill_type VARCHAR(64),
	buyer_nick VARCHAR(128),
	buyer_open_uid VARCHAR(128),
	modified_at BIGINT,
	PRIMARY KEY (refund_id)
)ENGINE=InnoDB CHARSET=utf8mb4 COLLATE utf8mb4_bin;
CREATE INDEX refunds_tid ON refunds (tid);
CREATE TABLE schema_migrations (
	version INTEGER NOT NULL,
	applied_at BIGINT NOT NULL,
	PRIMARY KEY (version)
)ENGINE=InnoDB CHARSET=utf8mb4 COLLATE utf8mb4_bin;
CREATE TABLE trade_lines (
	tid VARCHAR(32) NOT NULL,
	oid VARCHAR(32) NOT NULL,
	published_at BIGINT NOT NULL,
	order_rank INTEGER NOT NULL,
	message_key VARCHAR(128) NOT NULL,
	older MEDIUMTEXT NOT NULL,
	seller VARCHAR(128) NOT NULL,
	user_id VARCHAR(32) NOT NULL,
	topic VARCHAR(128) NOT NULL,
	status VARCHAR(64),
	payment NUMERIC(18, 2),
	num_iid VARCHAR(32),
	sku_id VARCHAR(32),
	PRIMARY KEY (tid, oid)
)ENGINE=InnoDB CHARSET=utf8mb4 COLLATE utf8mb4_bin;
CREATE TABLE trades (
	tid VARCHAR(32) NOT NULL,
	published_at BIGINT NOT NULL,
	order_rank INTEGER NOT NULL,
	message_key VARCHAR(128) NOT NULL,
	older MEDIUMTEXT NOT NULL,
	seller VARCHAR(128) NOT NULL,
	user_id VARCHAR(32) NOT NULL,
	topic VARCHAR(128) NOT NULL,
	status VARCHAR(64),
	payment NUMERIC(18, 2),
	post_fee NUMERIC(18, 2),
	type VARCHAR(64),
	buyer_nick VARCHAR(128),
	buyer_open_uid VARCHAR(128),
	seller_memo MEDIUMTEXT,
	seller_flag INTEGER,
	PRIMARY KEY (tid)
)ENGINE=InnoDB CHARSET=utf8mb4 COLLATE utf8mb4_bin;
DROP VIEW IF EXISTS v_dead_letters;
CREATE VIEW v_dead_letters AS SELECT id, source, consumer_group, instance, broker, system_topic, queue_id, transport_id, origin_id, queue_offset, tag, keys_, CONCAT(DATE_FORMAT(CAST('1970-01-01 08:00:00' AS DATETIME) + INTERVAL born_at DIV 1000 SECOND, '%Y-%m-%d %H:%i:%s'), '.', LPAD(born_at MOD 1000, 3, '0')) AS born_at, attempt, reason, detail, CONCAT(DATE_FORMAT(CAST('1970-01-01 08:00:00' AS DATETIME) + INTERVAL dead_at DIV 1000 SECOND, '%Y-%m-%d %H:%i:%s'), '.', LPAD(dead_at MOD 1000, 3, '0')) AS dead_at FROM dead_letters;
DROP VIEW IF EXISTS v_gaps;
CREATE VIEW v_gaps AS SELECT id, source, consumer_group, instance, broker, system_topic, queue_id, first_offset, last_offset, reason, CONCAT(DATE_FORMAT(CAST('1970-01-01 08:00:00' AS DATETIME) + INTERVAL noted_at DIV 1000 SECOND, '%Y-%m-%d %H:%i:%s'), '.', LPAD(noted_at MOD 1000, 3, '0')) AS noted_at FROM gaps;
DROP VIEW IF EXISTS v_logistics_traces;
CREATE VIEW v_logistics_traces AS SELECT message_key, tid, seller, user_id, out_sid, company_name, action, description, CONCAT(DATE_FORMAT(CAST('1970-01-01 08:00:00' AS DATETIME) + INTERVAL traced_at DIV 1000 SECOND, '%Y-%m-%d %H:%i:%s'), '.', LPAD(traced_at MOD 1000, 3, '0')) AS traced_at, CONCAT(DATE_FORMAT(CAST('1970-01-01 08:00:00' AS DATETIME) + INTERVAL published_at DIV 1000 SECOND, '%Y-%m-%d %H:%i:%s'), '.', LPAD(published_at MOD 1000, 3, '0')) AS published_at FROM logistics_traces;
DROP VIEW IF EXISTS v_messages;
CREATE VIEW v_messages AS SELECT id, message_key, source, topic, seller, user_id, tid, oid, refund_id, num_iid, CONCAT(DATE_FORMAT(CAST('1970-01-01 08:00:00' AS DATETIME) + INTERVAL published_at DIV 1000 SECOND, '%Y-%m-%d %H:%i:%s'), '.', LPAD(published_at MOD 1000, 3, '0')) AS published_at, published_from, CONCAT(DATE_FORMAT(CAST('1970-01-01 08:00:00' AS DATETIME) + INTERVAL born_at DIV 1000 SECOND, '%Y-%m-%d %H:%i:%s'), '.', LPAD(born_at MOD 1000, 3, '0')) AS born_at, CONCAT(DATE_FORMAT(CAST('1970-01-01 08:00:00' AS DATETIME) + INTERVAL landed_at DIV 1000 SECOND, '%Y-%m-%d %H:%i:%s'), '.', LPAD(landed_at MOD 1000, 3, '0')) AS landed_at FROM messages;
DROP VIEW IF EXISTS v_positions;
CREATE VIEW v_positions AS SELECT source, consumer_group, instance, broker, system_topic, queue_id, next_offset, CONCAT(DATE_FORMAT(CAST('1970-01-01 08:00:00' AS DATETIME) + INTERVAL updated_at DIV 1000 SECOND, '%Y-%m-%d %H:%i:%s'), '.', LPAD(updated_at MOD 1000, 3, '0')) AS updated_at FROM positions;
DROP VIEW IF EXISTS v_refunds;
CREATE VIEW v_refunds AS SELECT refund_id, CONCAT(DATE_FORMAT(CAST('1970-01-01 08:00:00' AS DATETIME) + INTERVAL published_at DIV 1000 SECOND, '%Y-%m-%d %H:%i:%s'), '.', LPAD(published_at MOD 1000, 3, '0')) AS published_at, message_key, seller, user_id, topic, tid, oid, refund_fee, refund_phase, bill_type, buyer_nick, buyer_open_uid, CONCAT(DATE_FORMAT(CAST('1970-01-01 08:00:00' AS DATETIME) + INTERVAL modified_at DIV 1000 SECOND, '%Y-%m-%d %H:%i:%s'), '.', LPAD(modified_at MOD 1000, 3, '0')) AS modified_at FROM refunds;
DROP VIEW IF EXISTS v_schema_migrations;
CREATE VIEW v_schema_migrations AS SELECT version, CONCAT(DATE_FORMAT(CAST('1970-01-01 08:00:00' AS DATETIME) + INTERVAL applied_at DIV 1000 SECOND, '%Y-%m-%d %H:%i:%s'), '.', LPAD(applied_at MOD 1000, 3, '0')) AS applied_at FROM schema_migrations;
DROP VIEW IF EXISTS v_trade_lines;
CREATE VIEW v_trade_lines AS SELECT tid, oid, CONCAT(DATE_FORMAT(CAST('1970-01-01 08:00:00' AS DATETIME) + INTERVAL published_at DIV 1000 SECOND, '%Y-%m-%d %H:%i:%s'), '.', LPAD(published_at MOD 1000, 3, '0')) AS published_at, message_key, seller, user_id, topic, status, payment, num_iid, sku_id FROM trade_lines;
DROP VIEW IF EXISTS v_trades;
CREATE VIEW v_trades AS SELECT tid, CONCAT(DATE_FORMAT(CAST('1970-01-01 08:00:00' AS DATETIME) + INTERVAL published_at DIV 1000 SECOND, '%Y-%m-%d %H:%i:%s'), '.', LPAD(published_at MOD 1000, 3, '0')) AS published_at, message_key, seller, user_id, topic, status, payment, post_fee, type, buyer_nick, buyer_open_uid, seller_memo, seller_flag FROM trades;
INSERT INTO schema_migrations (version, applied_at) VALUES (1, 1668100000000);
