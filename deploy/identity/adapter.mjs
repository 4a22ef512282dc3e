// What the provider remembers: in this process's memory, shared by the old and the new provider when keys are turned over.

const GRANTABLE = new Set(["AccessToken", "AuthorizationCode", "RefreshToken", "DeviceCode"]);

/** A class of adapters over one store, as oidc-provider wants it (see its `example/my_adapter.js` for the verbs). */
export function memoryAdapter() {
  const kept = new Map(); // "<model>:<id>" -> { payload, until }

  const live = (key) => {
    const entry = kept.get(key);
    if (entry && entry.until <= Date.now()) {
      kept.delete(key);
      return undefined;
    }
    return entry?.payload;
  };

  return class MemoryAdapter {
    constructor(model) {
      this.model = model;
    }

    async upsert(id, payload, expiresIn) {
      kept.set(`${this.model}:${id}`, { payload, until: expiresIn ? Date.now() + expiresIn * 1000 : Infinity });
    }

    async find(id) {
      return live(`${this.model}:${id}`);
    }

    #first(matches) {
      for (const key of kept.keys()) {
        if (key.startsWith(`${this.model}:`)) {
          const payload = live(key);
          if (payload && matches(payload)) return payload;
        }
      }
      return undefined;
    }

    async findByUid(uid) {
      return this.#first((payload) => payload.uid === uid);
    }

    async findByUserCode(userCode) {
      return this.#first((payload) => payload.userCode === userCode);
    }

    async consume(id) {
      const payload = live(`${this.model}:${id}`);
      if (payload) payload.consumed = Math.floor(Date.now() / 1000);
    }

    async destroy(id) {
      kept.delete(`${this.model}:${id}`);
    }

    async revokeByGrantId(grantId) {
      for (const [key, { payload }] of kept) {
        if (GRANTABLE.has(key.split(":", 1)[0]) && payload.grantId === grantId) kept.delete(key);
      }
    }
  };
}
