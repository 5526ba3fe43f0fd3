# SPDX-License-Identifier: LGPL-2.1-or-later
"""A web server for a test: nginx in a folder of its own.

    with Nginx(d, 'location / { }') as web:         # d/www is served
        web.url('base.raw')

It listens on a port of 127.0.0.1 (or @host) that it is given; with tls=True also
on one of 127.0.0.1 with TLS and HTTP/2, by a certificate for localhost of a CA of
the test's own (d/ca.pem).
"""
import os
import socket
import subprocess

from killed import kill_and_wait
from sluiced import Skip, run_tool
from waiting import until

MODULES = '/usr/lib/nginx/modules'
CONFIG = '''
%(modules)s
daemon off;
pid nginx.pid;
error_log stderr;
master_process off;
events { worker_connections 512; }
http {
    client_body_temp_path t; proxy_temp_path t; fastcgi_temp_path t;
    uwsgi_temp_path t; scgi_temp_path t;
    log_format short '$request_method $uri $status $http_range $server_protocol $connection';
    access_log access.log short;
    keepalive_requests 100000;
    server {
        %(listen)s
        root www;
        %(config)s
    }
}
'''


def free_ports(count):
    """Ports of 127.0.0.1 that nobody listens on."""
    socks = [socket.socket() for _ in range(count)]
    try:
        for s in socks:
            s.bind(('127.0.0.1', 0))
        return [s.getsockname()[1] for s in socks]
    finally:
        for s in socks:
            s.close()


def answers(port, host='127.0.0.1'):
    with socket.socket() as s:
        return s.connect_ex((host, port)) == 0


def make_ca(d, name='ca'):
    """A CA, and a certificate of it for localhost: paths in @d."""
    def path(suffix):
        return os.path.join(d, name + suffix)
    ec = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes']
    run_tool('openssl', 'req', '-x509', *ec, '-days', '30', '-subj',
             '/CN=' + name, '-keyout', path('.key'), '-out', path('.pem'))
    run_tool('openssl', 'req', *ec, '-subj', '/CN=localhost', '-addext',
             'subjectAltName=DNS:localhost', '-keyout', path('-server.key'),
             '-out', path('-server.csr'))
    run_tool('openssl', 'x509', '-req', '-days', '30', '-in',
             path('-server.csr'), '-CA', path('.pem'), '-CAkey', path('.key'),
             '-copy_extensions', 'copy', '-out', path('-server.pem'))


class Nginx:
    def __init__(self, d, config='', tls=False, modules=(), host='127.0.0.1'):
        self.program = next(
            (p for p in ('/usr/sbin/nginx', '/usr/local/sbin/nginx')
             if os.path.exists(p)), None)
        if not self.program:
            raise Skip('nginx is not installed')
        self.dir = os.path.join(d, 'nginx')
        self.www = os.path.join(self.dir, 'www')
        os.makedirs(self.www, exist_ok=True)
        for m in modules:
            if not os.path.exists('%s/%s.so' % (MODULES, m)):
                raise Skip('module %s of nginx is not installed' % m)
        self.modules = modules
        self.host = host
        self.tls = tls
        self.ca = os.path.join(self.dir, 'ca.pem')
        if tls:
            make_ca(self.dir)
        self.port, self.tls_port = free_ports(2)
        self.proc = None
        self.start(config)

    def start(self, config):
        listen = 'listen %s:%d;' % (self.host, self.port)
        if self.tls:
            listen += '''
        listen 127.0.0.1:%d ssl http2;
        ssl_certificate ca-server.pem;
        ssl_certificate_key ca-server.key;''' % self.tls_port
        with open(os.path.join(self.dir, 'nginx.conf'), 'w',
                  encoding='ascii') as f:
            f.write(CONFIG % {
                'modules': ''.join('load_module %s/%s.so;' % (MODULES, m)
                                   for m in self.modules),
                'listen': listen,
                'config': config % {'port': self.port,
                                    'tls_port': self.tls_port}})
        with open(os.path.join(self.dir, 'stderr'), 'ab') as err:
            self.proc = subprocess.Popen(
                [self.program, '-p', self.dir + '/', '-e', 'stderr', '-c',
                 self.dir + '/nginx.conf'], stderr=err)
        until(self.is_up, 'nginx')

    def is_up(self):
        assert self.proc.poll() is None, self.errors()
        return answers(self.port, self.host)

    def errors(self):
        with open(os.path.join(self.dir, 'stderr'), encoding='utf-8') as f:
            return f.read()

    def path(self, name):
        return os.path.join(self.www, name)

    def url(self, name, tls=False):
        return ('https://localhost:%d/%s' % (self.tls_port, name) if tls else
                'http://%s:%d/%s' % (self.host, self.port, name))

    def log(self):
        """[method, path, status, range, protocol, connection] of requests."""
        with open(os.path.join(self.dir, 'access.log'),
                  encoding='ascii') as f:
            return [line.split() for line in f]

    def stop(self):
        """As a power cut."""
        if self.proc:
            kill_and_wait(self.proc)
            self.proc = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()
