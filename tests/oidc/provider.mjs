// An OAuth 2.0 and OpenID Connect provider on 127.0.0.1 for tests/it/oauth.rs: oidc-provider, which is certified, with
// some paths beside it that a test steers it by:
//   /test/approve?code=CODE   plays the person who opens the page, enters the code, logs in and agrees
//   /test/deny?code=CODE      the same, but refuses
//   /test/ttl?seconds=N       how long access tokens hold from now on
//   /test/token?value=TOKEN   whether an access or refresh token holds
//   /test/seen                what has happened so far
// The folder with node_modules is the working directory. The first line of output is the issuer; the end of standard
// input ends it.
import { createServer } from 'node:http';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';

const { resolve } = createRequire(join(process.cwd(), 'package.json'));
const { Provider } = await import(pathToFileURL(resolve('oidc-provider')));

let ttl = 600;
const seen = { device_code: 0, refresh_token: 0, client_credentials: 0, families_revoked: 0 };

const server = createServer();
await new Promise((done) => server.listen(0, '127.0.0.1', done));
const issuer = `http://127.0.0.1:${server.address().port}`;

const machine = { redirect_uris: [], response_types: [], grant_types: ['client_credentials'] };
const provider = new Provider(issuer, {
  clients: [
    {
      client_id: 'cli',
      token_endpoint_auth_method: 'none',
      application_type: 'native',
      redirect_uris: [],
      response_types: [],
      grant_types: ['urn:ietf:params:oauth:grant-type:device_code', 'refresh_token'],
    },
    { client_id: 'batch', client_secret: 'secret+of/batch=', token_endpoint_auth_method: 'client_secret_basic', ...machine },
    { client_id: 'batch-post', client_secret: 'secret+of/post=', token_endpoint_auth_method: 'client_secret_post', ...machine },
  ],
  scopes: ['openid', 'offline_access', 'chat'],
  features: {
    clientCredentials: { enabled: true },
    deviceFlow: { enabled: true },
    devInteractions: { enabled: true },
    revocation: { enabled: true },
    resourceIndicators: {
      enabled: true,
      defaultResource: () => undefined,
      useGrantedResource: () => true,
      getResourceServerInfo: (_, audience) => ({ audience, scope: 'chat', accessTokenFormat: 'opaque', accessTokenTTL: ttl }),
    },
  },
  // By default an access token holds for some seconds past its end.
  clockTolerance: 0,
  rotateRefreshToken: true,
  ttl: { AccessToken: () => ttl, ClientCredentials: () => ttl, DeviceCode: 120, Grant: 3600, Interaction: 600, RefreshToken: 3600, Session: 3600 },
  cookies: { keys: ['test'] },
  findAccount: (_, id) => ({ accountId: id, claims: () => ({ sub: id }) }),
});
provider.on('grant.success', (ctx) => { seen[ctx.oidc.params.grant_type.split(':').pop()] += 1; });
provider.on('grant.revoked', () => { seen.families_revoked += 1; });

// A browser with cookies, as far as the provider's own pages need one.
async function decide(code, agrees) {
  const jar = new Map();
  async function open(url, form) {
    for (let hops = 0; hops < 10; hops += 1) {
      const answer = await fetch(new URL(url, issuer), {
        method: form ? 'POST' : 'GET',
        body: form && new URLSearchParams(form),
        headers: { cookie: [...jar].map((pair) => pair.join('=')).join('; ') },
        redirect: 'manual',
      });
      for (const cookie of answer.headers.getSetCookie()) {
        const [name, value] = cookie.split(';')[0].split('=');
        jar.set(name, value);
      }
      if (answer.status < 300 || answer.status > 399) {
        if (!answer.ok) throw new Error(`${url} answered ${answer.status}`);
        return { url, page: await answer.text() };
      }
      [url, form] = [answer.headers.get('location'), undefined];
    }
    throw new Error('too many redirects');
  }
  const token = ({ page }) => /name="xsrf" value="([^"]*)"/.exec(page)[1];
  const asked = await open('/device');
  const named = await open('/device', { xsrf: token(asked), user_code: code });
  const answer = agrees ? { confirm: 'yes' } : { abort: 'yes' };
  const login = await open('/device', { xsrf: token(named), user_code: code, ...answer });
  if (agrees) {
    const consent = await open(login.url, { prompt: 'login', login: 'alice', password: 'x' });
    await open(consent.url, { prompt: 'consent' });
  }
}

async function steer(url) {
  const value = url.searchParams;
  switch (url.pathname) {
    case '/test/approve':
    case '/test/deny':
      return decide(value.get('code'), url.pathname.endsWith('approve'));
    case '/test/ttl':
      ttl = Number(value.get('seconds'));
      return undefined;
    case '/test/token': {
      const kinds = [provider.AccessToken, provider.ClientCredentials, provider.RefreshToken];
      const found = await Promise.all(kinds.map((kind) => kind.find(value.get('value'))));
      return found.some((token) => token?.isValid);
    }
    default:
      return seen;
  }
}

server.on('request', (request, response) => {
  const url = new URL(request.url, issuer);
  if (!url.pathname.startsWith('/test/')) {
    provider.callback()(request, response);
    return;
  }
  steer(url).then(
    (result) => response.end(JSON.stringify(result ?? null)),
    (error) => { response.statusCode = 500; response.end(String(error)); },
  );
});
process.stdin.on('end', () => process.exit(0)).resume();
console.log(issuer);
// It says at length what only a test may do.
[console.info, console.warn] = [() => {}, () => {}];
