# SPDX-License-Identifier: LGPL-2.1-or-later
"""Certificates and keys of a test's own, in folders as --object tls-creds-...
takes them.

    ca = Authority(d)
    server = ca.folder('server', 'localhost', names=['DNS:localhost'])
    client = ca.folder('client', 'alice')
    keys = psk_folder(d, alice='00112233')
"""
import os
import shutil

from sluiced import run_tool

EC = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256']
PURPOSE = {'server': 'serverAuth', 'client': 'clientAuth'}


class Authority:
    def __init__(self, d, name='ca'):
        self.dir = os.path.join(d, name)
        os.mkdir(self.dir)
        self.cert = self._path('ca.pem')
        self.key = self._path('ca.key')
        self.made = 0
        run_tool('openssl', 'req', '-x509', *EC, '-nodes', '-days', '30',
                 '-subj', '/CN=' + name, '-keyout', self.key, '-out', self.cert)

    def _path(self, name):
        return os.path.join(self.dir, name)

    def issue(self, end, subject, names=(), days=30, passphrase=None):
        """(certificate, key) for @end, 'server' or 'client'."""
        self.made += 1
        cert, key, csr = [self._path('%d.%s' % (self.made, s))
                          for s in ('pem', 'key', 'csr')]
        extra = ['-addext', 'extendedKeyUsage=' + PURPOSE[end]]
        if names:
            extra += ['-addext', 'subjectAltName=' + ','.join(names)]
        extra += (['-passout', 'pass:' + passphrase] if passphrase
                  else ['-nodes'])
        run_tool('openssl', 'req', *EC, *extra, '-subj', subject, '-keyout',
                 key, '-out', csr)
        run_tool('openssl', 'x509', '-req', '-days', str(days), '-in', csr,
                 '-CA', self.cert, '-CAkey', self.key, '-CAcreateserial',
                 '-copy_extensions', 'copy', '-out', cert)
        return cert, key

    def revoke(self, cert):
        """A list of revocations that names @cert; its path."""
        crl, index, config = [self._path(n) for n in ('crl', 'index', 'conf')]
        with open(config, 'w', encoding='ascii') as f:
            f.write('[ca]\ndefault_ca = us\n[us]\ndatabase = %s\n'
                    'default_md = sha256\ndefault_crl_days = 30\n' % index)
        with open(index, 'w', encoding='ascii'):
            pass
        common = ['-config', config, '-cert', self.cert, '-keyfile', self.key]
        run_tool('openssl', 'ca', *common, '-revoke', cert)
        run_tool('openssl', 'ca', *common, '-gencrl', '-out', crl)
        return crl

    def folder(self, end, cn, name=None, trust=None, crl=None, subject=None,
               **how):
        """A folder with all that @end needs; trusts @trust, an Authority."""
        folder = self._path(name or '%s-%d' % (end, self.made))
        os.mkdir(folder)
        shutil.copy((trust or self).cert, os.path.join(folder, 'ca-cert.pem'))
        if crl:
            shutil.copy(crl, os.path.join(folder, 'ca-crl.pem'))
        if cn:
            cert, key = self.issue(end, subject or '/CN=' + cn, **how)
            shutil.copy(cert, os.path.join(folder, end + '-cert.pem'))
            shutil.copy(key, os.path.join(folder, end + '-key.pem'))
        return folder


def psk_folder(d, name='psk', **keys):
    """A folder with keys.psk; each of @keys is user=hex."""
    folder = os.path.join(d, name)
    os.mkdir(folder)
    path = os.path.join(folder, 'keys.psk')
    fd = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
    with open(fd, 'w', encoding='ascii') as f:
        f.write(''.join('%s:%s\n' % k for k in keys.items()))
    return folder
