BEGIN TRANSACTION;
CREATE TABLE alembic_version (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);
INSERT INTO "alembic_version" VALUES('0005');
CREATE TABLE api_keys (
	id VARCHAR NOT NULL, 
	tenant VARCHAR NOT NULL, 
	name VARCHAR NOT NULL, 
	scopes JSON NOT NULL, 
	digest VARCHAR NOT NULL, 
	hint VARCHAR NOT NULL, 
	limits JSON NOT NULL, 
	created_at DATETIME NOT NULL, 
	expires_at DATETIME, 
	revoked_at DATETIME, 
	last_used_at DATETIME, 
	CONSTRAINT pk_api_keys PRIMARY KEY (id)
);
CREATE TABLE artifacts (
	search_id VARCHAR NOT NULL, 
	name VARCHAR NOT NULL, 
	size BIGINT NOT NULL, 
	sha256 VARCHAR NOT NULL, 
	CONSTRAINT pk_artifacts PRIMARY KEY (search_id, name), 
	CONSTRAINT fk_artifacts_search_id_searches FOREIGN KEY(search_id) REFERENCES searches (id)
);
INSERT INTO "artifacts" VALUES('srch_01m7xg8hm7j7b3y7thb0aqfy1d','model.safetensors',5000000000,'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa');
CREATE TABLE audit (
	id VARCHAR NOT NULL, 
	tenant VARCHAR NOT NULL, 
	action VARCHAR NOT NULL, 
	object_id VARCHAR NOT NULL, 
	result VARCHAR NOT NULL, 
	at DATETIME NOT NULL, 
	key_id VARCHAR, 
	ip VARCHAR, 
	request_id VARCHAR, 
	CONSTRAINT pk_audit PRIMARY KEY (id)
);
CREATE TABLE devices (
	tenant VARCHAR NOT NULL, 
	name VARCHAR NOT NULL, 
	description JSON NOT NULL, 
	registered_at DATETIME NOT NULL, 
	last_seen_at DATETIME NOT NULL, 
	measured INTEGER NOT NULL, 
	failed INTEGER NOT NULL, 
	noises JSON NOT NULL, 
	CONSTRAINT pk_devices PRIMARY KEY (tenant, name)
);
CREATE TABLE events (
	id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	search_id VARCHAR NOT NULL, 
	tenant VARCHAR NOT NULL, 
	kind VARCHAR NOT NULL, 
	data JSON NOT NULL, 
	created_at DATETIME NOT NULL, 
	txid BIGINT NOT NULL, 
	CONSTRAINT fk_events_search_id_searches FOREIGN KEY(search_id) REFERENCES searches (id)
);
CREATE TABLE idempotency_keys (
	tenant VARCHAR NOT NULL, 
	"key" VARCHAR NOT NULL, 
	fingerprint VARCHAR NOT NULL, 
	search_id VARCHAR NOT NULL, 
	created_at DATETIME NOT NULL, 
	CONSTRAINT pk_idempotency_keys PRIMARY KEY (tenant, "key"), 
	CONSTRAINT fk_idempotency_keys_search_id_searches FOREIGN KEY(search_id) REFERENCES searches (id) DEFERRABLE INITIALLY DEFERRED
);
CREATE TABLE labels (
	search_id VARCHAR NOT NULL, 
	"key" VARCHAR NOT NULL, 
	value VARCHAR NOT NULL, 
	CONSTRAINT pk_labels PRIMARY KEY (search_id, "key"), 
	CONSTRAINT fk_labels_search_id_searches FOREIGN KEY(search_id) REFERENCES searches (id)
);
INSERT INTO "labels" VALUES('srch_01m7xg8hm7j7b3y7thb0aqfy1d','team','edge');
INSERT INTO "labels" VALUES('srch_01m7xg8hwcnymw0ayrgvgnnw9k','team','edge');
INSERT INTO "labels" VALUES('srch_01m7xg8hwcnymw0ayrgvgnnw9k','stage','try');
CREATE TABLE measurement_batches (
	id VARCHAR NOT NULL, 
	tenant VARCHAR NOT NULL, 
	device VARCHAR NOT NULL, 
	search_id VARCHAR, 
	conditions JSON NOT NULL, 
	wanted_until DATETIME NOT NULL, 
	CONSTRAINT pk_measurement_batches PRIMARY KEY (id), 
	CONSTRAINT fk_measurement_batches_device_devices FOREIGN KEY(tenant, device) REFERENCES devices (tenant, name)
);
CREATE TABLE measurements (
	id VARCHAR NOT NULL, 
	batch_id VARCHAR NOT NULL, 
	work JSON NOT NULL, 
	state VARCHAR NOT NULL, 
	attempt INTEGER NOT NULL, 
	lease_expires_at DATETIME, 
	timing JSON, 
	error TEXT, 
	created_at DATETIME NOT NULL, 
	CONSTRAINT pk_measurements PRIMARY KEY (id), 
	CONSTRAINT fk_measurements_batch_id_measurement_batches FOREIGN KEY(batch_id) REFERENCES measurement_batches (id)
);
CREATE TABLE search_attempts (
	search_id VARCHAR NOT NULL, 
	attempt INTEGER NOT NULL, 
	started_at DATETIME NOT NULL, 
	ended_at DATETIME, 
	reason TEXT, 
	lost BOOLEAN NOT NULL, 
	worker VARCHAR, 
	host VARCHAR, 
	pid INTEGER, 
	CONSTRAINT pk_search_attempts PRIMARY KEY (search_id, attempt), 
	CONSTRAINT fk_search_attempts_search_id_searches FOREIGN KEY(search_id) REFERENCES searches (id)
);
CREATE TABLE searches (
	id VARCHAR NOT NULL, 
	name VARCHAR, 
	strategy VARCHAR, 
	spec JSON NOT NULL, 
	state VARCHAR NOT NULL, 
	state_reason TEXT, 
	attempt INTEGER NOT NULL, 
	lease_expires_at DATETIME, 
	cancel_requested BOOLEAN NOT NULL, 
	events INTEGER NOT NULL, 
	created_at DATETIME NOT NULL, 
	updated_at DATETIME NOT NULL, 
	started_at DATETIME, 
	finished_at DATETIME, 
	info JSON NOT NULL, 
	result JSON, tenant VARCHAR DEFAULT 'default' NOT NULL, priority INTEGER DEFAULT '0' NOT NULL, pause_requested BOOLEAN DEFAULT 0 NOT NULL, version INTEGER DEFAULT '1' NOT NULL, losses INTEGER DEFAULT '0' NOT NULL, owner VARCHAR, host VARCHAR, best JSON, events_pruned BIGINT DEFAULT '0' NOT NULL, key_id VARCHAR, 
	CONSTRAINT pk_searches PRIMARY KEY (id)
);
INSERT INTO "searches" VALUES('srch_01m7xg8hm7j7b3y7thb0aqfy1d','half','abc','{"name": "half", "seed": 7, "search_space": {"name": "resnet20"}, "strategy": {"name": "abc"}, "objective": "top1", "budgets": [{"metric": "macs", "max_ratio": 0.5}], "trials": {"max": 20}}','succeeded','finished',1,NULL,0,13,'2026-11-20 22:12:03.847684','2026-11-20 22:12:04.089962','2026-11-20 22:12:03.934376','2026-11-20 22:12:04.089941','{"base": {"macs": 40.0}, "budgets": [{"metric": "macs", "max": 20.0, "min": null}], "space": {"names": ["a", "b"], "full": [16, 32], "log10_size": 2.7}}','{"schema_version": 1, "trial": 2}','default',0,0,1,0,NULL,NULL,'{"base": {"number": 0, "value": 0.91}, "search": {"number": 2, "value": 0.8}}',0,NULL);
INSERT INTO "searches" VALUES('srch_01m7xg8hwcnymw0ayrgvgnnw9k','killed','abc','{"name": "half", "seed": 7, "search_space": {"name": "resnet20"}, "strategy": {"name": "abc"}, "objective": "top1", "budgets": [{"metric": "macs", "max_ratio": 0.5}], "trials": {"max": 20}}','running','evaluating candidates',2,'2026-11-20 22:12:04.171715',0,15,'2026-11-20 22:12:04.108455','2026-11-20 22:12:04.322326','2026-11-20 22:12:04.128705',NULL,'{"losses": 1, "base": {"macs": 40.0}, "budgets": [{"metric": "macs", "max": 20.0, "min": null}], "space": {"names": ["a", "b"], "full": [16, 32], "log10_size": 2.7}}',NULL,'default',0,0,1,1,NULL,NULL,'{"base": {"number": 0, "value": 0.91}, "search": {"number": 2, "value": 0.8}}',0,NULL);
INSERT INTO "searches" VALUES('srch_01m7xg8j3cspnjn0ffqy3ms8zv',NULL,'abc','{"name": "half", "seed": 7, "search_space": {"name": "resnet20"}, "strategy": {"name": "abc"}, "objective": "loss", "budgets": [{"metric": "macs", "max_ratio": 0.5}], "trials": {"max": 20}}','queued',NULL,0,NULL,0,0,'2026-11-20 22:12:04.332576','2026-11-20 22:12:04.332618',NULL,NULL,'{}',NULL,'default',0,0,1,0,NULL,NULL,'{}',0,NULL);
INSERT INTO "searches" VALUES('srch_01m7xg8j3z2nme1v2q2tka8v6d','never mind — 木','abc','{"name": "half", "seed": 7, "search_space": {"name": "resnet20"}, "strategy": {"name": "abc"}, "objective": "top1", "budgets": [{"metric": "macs", "max_ratio": 0.5}], "trials": {"max": 20}}','cancelled',NULL,0,NULL,1,0,'2026-11-20 22:12:04.351482','2026-11-20 22:12:04.372894',NULL,'2026-11-20 22:12:04.372884','{}',NULL,'default',0,0,1,0,NULL,NULL,'{}',0,NULL);
CREATE TABLE snapshots (
	search_id VARCHAR NOT NULL, 
	body JSON NOT NULL, 
	CONSTRAINT pk_snapshots PRIMARY KEY (search_id), 
	CONSTRAINT fk_snapshots_search_id_searches FOREIGN KEY(search_id) REFERENCES searches (id)
);
INSERT INTO "snapshots" VALUES('srch_01m7xg8hm7j7b3y7thb0aqfy1d','{"sequence": 5, "strategies": {"search": {"z": [0.1]}}}');
INSERT INTO "snapshots" VALUES('srch_01m7xg8hwcnymw0ayrgvgnnw9k','{"sequence": 5, "strategies": {"search": {"z": [0.1]}}}');
CREATE TABLE trial_counts (
	search_id VARCHAR NOT NULL, 
	arm VARCHAR NOT NULL, 
	state VARCHAR NOT NULL, 
	number INTEGER NOT NULL, 
	CONSTRAINT pk_trial_counts PRIMARY KEY (search_id, arm, state), 
	CONSTRAINT fk_trial_counts_search_id_searches FOREIGN KEY(search_id) REFERENCES searches (id)
);
INSERT INTO "trial_counts" VALUES('srch_01m7xg8hm7j7b3y7thb0aqfy1d','base','complete',1);
INSERT INTO "trial_counts" VALUES('srch_01m7xg8hm7j7b3y7thb0aqfy1d','search','cancelled',1);
INSERT INTO "trial_counts" VALUES('srch_01m7xg8hm7j7b3y7thb0aqfy1d','search','complete',4);
INSERT INTO "trial_counts" VALUES('srch_01m7xg8hm7j7b3y7thb0aqfy1d','search','failed',1);
INSERT INTO "trial_counts" VALUES('srch_01m7xg8hwcnymw0ayrgvgnnw9k','base','complete',1);
INSERT INTO "trial_counts" VALUES('srch_01m7xg8hwcnymw0ayrgvgnnw9k','search','complete',5);
INSERT INTO "trial_counts" VALUES('srch_01m7xg8hwcnymw0ayrgvgnnw9k','search','failed',1);
CREATE TABLE trials (
	search_id VARCHAR NOT NULL, 
	number INTEGER NOT NULL, 
	arm VARCHAR NOT NULL, 
	state VARCHAR NOT NULL, 
	attempt INTEGER NOT NULL, 
	widths JSON NOT NULL, 
	origin JSON NOT NULL, 
	parent INTEGER, 
	repaired BOOLEAN NOT NULL, 
	outcome JSON, 
	asked_seq INTEGER NOT NULL, 
	told_seq INTEGER, 
	asked_at DATETIME NOT NULL, 
	started_at DATETIME, 
	ended_at DATETIME, 
	CONSTRAINT pk_trials PRIMARY KEY (search_id, number), 
	CONSTRAINT fk_trials_search_id_searches FOREIGN KEY(search_id) REFERENCES searches (id)
);
INSERT INTO "trials" VALUES('srch_01m7xg8hm7j7b3y7thb0aqfy1d',0,'base','complete',1,'[16, 32]','{}',NULL,0,'{"state": "complete", "metrics": {"top1": 0.91, "macs": 40.0}, "cost": {}, "reason": null, "artifacts": {}, "details": {}}',1,2,'2026-11-20 22:12:03.966119','2026-11-20 22:12:03.979854','2026-11-20 22:12:03.981736');
INSERT INTO "trials" VALUES('srch_01m7xg8hm7j7b3y7thb0aqfy1d',1,'search','complete',1,'[9, 16]','{"kick": [1, 0.1]}',NULL,0,'{"state": "complete", "metrics": {"top1": 0.5, "macs": 10.0}, "cost": {"seconds": 1.5}, "reason": null, "artifacts": {}, "details": {}}',3,4,'2026-11-20 22:12:03.999820','2026-11-20 22:12:04.007086','2026-11-20 22:12:04.008475');
INSERT INTO "trials" VALUES('srch_01m7xg8hm7j7b3y7thb0aqfy1d',2,'search','complete',1,'[10, 16]','{"kick": [2, 0.1]}',NULL,0,'{"state": "complete", "metrics": {"top1": 0.8, "macs": 12.0}, "cost": {"seconds": 1.5}, "reason": null, "artifacts": {}, "details": {}}',5,6,'2026-11-20 22:12:04.009500','2026-11-20 22:12:04.010503','2026-11-20 22:12:04.023864');
INSERT INTO "trials" VALUES('srch_01m7xg8hm7j7b3y7thb0aqfy1d',3,'search','failed',1,'[11, 16]','{"kick": [3, 0.1]}',NULL,0,'{"state": "failed", "metrics": {}, "cost": {}, "reason": "The loss was NaN.", "artifacts": {}, "details": {}}',7,8,'2026-11-20 22:12:04.024982','2026-11-20 22:12:04.025986','2026-11-20 22:12:04.026914');
INSERT INTO "trials" VALUES('srch_01m7xg8hm7j7b3y7thb0aqfy1d',4,'search','complete',1,'[12, 16]','{"kick": [4, 0.1]}',NULL,0,'{"state": "complete", "metrics": {"top1": 0.7, "macs": 14.0}, "cost": {"seconds": 1.5}, "reason": null, "artifacts": {}, "details": {}}',9,10,'2026-11-20 22:12:04.036995','2026-11-20 22:12:04.044275','2026-11-20 22:12:04.045276');
INSERT INTO "trials" VALUES('srch_01m7xg8hm7j7b3y7thb0aqfy1d',5,'search','complete',1,'[13, 16]','{"kick": [5, 0.1]}',NULL,0,'{"state": "complete", "metrics": {"top1": 0.8, "macs": 11.0}, "cost": {"seconds": 1.5}, "reason": null, "artifacts": {}, "details": {}}',11,12,'2026-11-20 22:12:04.055969','2026-11-20 22:12:04.056998','2026-11-20 22:12:04.057997');
INSERT INTO "trials" VALUES('srch_01m7xg8hm7j7b3y7thb0aqfy1d',6,'search','cancelled',1,'[14, 16]','{"kick": [6, 0.1]}',NULL,0,'{"state": "cancelled", "metrics": {}, "cost": {}, "reason": "The search ended before this trial did.", "artifacts": {}, "details": {}}',13,NULL,'2026-11-20 22:12:04.058928','2026-11-20 22:12:04.072328','2026-11-20 22:12:04.090042');
INSERT INTO "trials" VALUES('srch_01m7xg8hwcnymw0ayrgvgnnw9k',0,'base','complete',1,'[16, 32]','{}',NULL,0,'{"state": "complete", "metrics": {"top1": 0.91, "macs": 40.0}, "cost": {}, "reason": null, "artifacts": {}, "details": {}}',1,2,'2026-11-20 22:12:04.192961','2026-11-20 22:12:04.204376','2026-11-20 22:12:04.205499');
INSERT INTO "trials" VALUES('srch_01m7xg8hwcnymw0ayrgvgnnw9k',1,'search','complete',1,'[9, 16]','{"kick": [1, 0.1]}',NULL,0,'{"state": "complete", "metrics": {"top1": 0.5, "macs": 10.0}, "cost": {"seconds": 1.5}, "reason": null, "artifacts": {}, "details": {}}',3,4,'2026-11-20 22:12:04.206537','2026-11-20 22:12:04.218863','2026-11-20 22:12:04.220105');
INSERT INTO "trials" VALUES('srch_01m7xg8hwcnymw0ayrgvgnnw9k',2,'search','complete',1,'[10, 16]','{"kick": [2, 0.1]}',NULL,0,'{"state": "complete", "metrics": {"top1": 0.8, "macs": 12.0}, "cost": {"seconds": 1.5}, "reason": null, "artifacts": {}, "details": {}}',5,6,'2026-11-20 22:12:04.221162','2026-11-20 22:12:04.222165','2026-11-20 22:12:04.236578');
INSERT INTO "trials" VALUES('srch_01m7xg8hwcnymw0ayrgvgnnw9k',3,'search','failed',1,'[11, 16]','{"kick": [3, 0.1]}',NULL,0,'{"state": "failed", "metrics": {}, "cost": {}, "reason": "The loss was NaN.", "artifacts": {}, "details": {}}',7,8,'2026-11-20 22:12:04.238090','2026-11-20 22:12:04.256537','2026-11-20 22:12:04.257963');
INSERT INTO "trials" VALUES('srch_01m7xg8hwcnymw0ayrgvgnnw9k',4,'search','complete',1,'[12, 16]','{"kick": [4, 0.1]}',NULL,0,'{"state": "complete", "metrics": {"top1": 0.7, "macs": 14.0}, "cost": {"seconds": 1.5}, "reason": null, "artifacts": {}, "details": {}}',9,10,'2026-11-20 22:12:04.271201','2026-11-20 22:12:04.272849','2026-11-20 22:12:04.273877');
INSERT INTO "trials" VALUES('srch_01m7xg8hwcnymw0ayrgvgnnw9k',5,'search','complete',1,'[13, 16]','{"kick": [5, 0.1]}',NULL,0,'{"state": "complete", "metrics": {"top1": 0.8, "macs": 11.0}, "cost": {"seconds": 1.5}, "reason": null, "artifacts": {}, "details": {}}',11,12,'2026-11-20 22:12:04.283937','2026-11-20 22:12:04.285050','2026-11-20 22:12:04.286016');
INSERT INTO "trials" VALUES('srch_01m7xg8hwcnymw0ayrgvgnnw9k',6,'search','complete',1,'[14, 16]','{"kick": [6, 0.1]}',NULL,0,'{"state": "complete", "metrics": {"top1": 0.95, "macs": 25.0}, "cost": {"seconds": 1.5}, "reason": null, "artifacts": {}, "details": {}}',13,14,'2026-11-20 22:12:04.300462','2026-11-20 22:12:04.301518','2026-11-20 22:12:04.302469');
INSERT INTO "trials" VALUES('srch_01m7xg8hwcnymw0ayrgvgnnw9k',7,'search','running',1,'[15, 16]','{"kick": [7, 0.1]}',NULL,0,NULL,15,NULL,'2026-11-20 22:12:04.320313','2026-11-20 22:12:04.321548',NULL);
CREATE TABLE webhook_deliveries (
	id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	webhook_id VARCHAR NOT NULL, 
	event_id INTEGER NOT NULL, 
	attempts INTEGER NOT NULL, 
	next_at DATETIME, 
	delivered_at DATETIME, 
	status INTEGER, 
	last_error TEXT, 
	CONSTRAINT fk_webhook_deliveries_webhook_id_webhooks FOREIGN KEY(webhook_id) REFERENCES webhooks (id), 
	CONSTRAINT fk_webhook_deliveries_event_id_events FOREIGN KEY(event_id) REFERENCES events (id)
);
CREATE TABLE webhooks (
	id VARCHAR NOT NULL, 
	tenant VARCHAR NOT NULL, 
	url VARCHAR NOT NULL, 
	secret VARCHAR NOT NULL, 
	kinds JSON NOT NULL, 
	created_at DATETIME NOT NULL, 
	disabled_at DATETIME, 
	failures INTEGER NOT NULL, 
	position BIGINT NOT NULL, free_at DATETIME, 
	CONSTRAINT pk_webhooks PRIMARY KEY (id)
);
CREATE INDEX ix_searches_state ON searches (state, id);
CREATE INDEX ix_searches_strategy ON searches (strategy, id);
CREATE INDEX ix_trials_arm_state ON trials (search_id, arm, state, number);
CREATE INDEX ix_labels_key_value ON labels ("key", value, search_id);
CREATE INDEX ix_searches_unfinished ON searches (priority DESC, id) WHERE finished_at IS NULL;
CREATE INDEX ix_searches_tenant ON searches (tenant, id);
CREATE INDEX ix_searches_tenant_state ON searches (tenant, state, id);
CREATE INDEX ix_events_search_id ON events (search_id, id);
CREATE INDEX ix_events_tenant ON events (tenant, txid, id);
CREATE INDEX ix_events_txid ON events (txid, id);
CREATE INDEX ix_idempotency_keys_created_at ON idempotency_keys (created_at);
CREATE UNIQUE INDEX ix_api_keys_digest ON api_keys (digest);
CREATE INDEX ix_api_keys_tenant ON api_keys (tenant, id);
CREATE INDEX ix_webhooks_tenant ON webhooks (tenant, id);
CREATE UNIQUE INDEX ix_webhook_deliveries_event ON webhook_deliveries (webhook_id, event_id);
CREATE INDEX ix_trials_open ON trials (search_id, arm, state) WHERE ended_at IS NULL;
CREATE INDEX ix_webhook_deliveries_event_id ON webhook_deliveries (event_id);
CREATE INDEX ix_measurement_batches_device ON measurement_batches (tenant, device, wanted_until);
CREATE INDEX ix_measurements_batch_id ON measurements (batch_id, id);
CREATE INDEX ix_webhook_deliveries_open ON webhook_deliveries (webhook_id, id) WHERE delivered_at IS NULL AND next_at IS NOT NULL;
CREATE INDEX ix_audit_object_id ON audit (object_id, id);
CREATE INDEX ix_audit_tenant ON audit (tenant, id);
DELETE FROM "sqlite_sequence";
COMMIT;
