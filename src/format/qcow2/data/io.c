/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Bytes of data as they stand in the image or in its data file. */
#include "base/math.h"
#include "format/qcow2/data/data.h"

int qcow2_co_data_read(struct qcow2_image *img, uint64_t host, struct iov iov,
                       unsigned flags)
{
    struct node *data = qcow2_data(img);
    size_t have = iov.len;

    if (img->shape.data_file) {
        if (!data) {
            return -EIO;
        }
        have = host < data->size ? min_u64(iov.len, data->size - host) : 0;
        iov_memset(iov, have, 0, iov.len - have);
        iov = iov_slice(iov, 0, have);
    }
    return have ? node_co_preadv(data, host, iov, flags) : 0;
}

int qcow2_co_data_write(struct qcow2_image *img, uint64_t host, struct iov iov,
                        unsigned flags)
{
    struct node *data = qcow2_data(img);

    if (!data) {
        return -EIO;
    }
    if (img->shape.data_file) {
        uint64_t left = host < img->data_end ? img->data_end - host : 0;

        iov = iov_slice(iov, 0, min_u64(iov.len, left));
    }
    return node_co_pwritev(data, host, iov, flags);
}
